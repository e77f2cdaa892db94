"""docs/architecture.md: every file and name of its walk exists, and the number that it follows is the plan's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dessim.workload.model import load_model
from dessim.workload.strategies import plan

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
WALK = re.findall(r"^\| [\w ]+ \| `([\w/]+\.py)` \| `(\w+)` \|", PAGE, re.MULTILINE)


def test_the_walk_has_its_steps() -> None:
    assert len(WALK) == 15


@pytest.mark.parametrize(("path", "name"), WALK)
def test_files_and_names_exist(path: str, name: str) -> None:
    assert re.search(rf"^\s*(class|def) {name}\b", (ROOT / path).read_text("utf-8"), re.MULTILINE), (path, name)


def test_rooms_exist() -> None:
    for package in ("dessim", "des_ref"):
        for folder in (ROOT / package).iterdir():
            if (folder / "__init__.py").is_file():
                assert f"{folder.name}/" in PAGE, folder


def test_the_number_is_the_plans() -> None:
    model = load_model("deepfm_ml100k")
    planned = plan("des_all_reduce", model)
    symbols = model.symbols(4, 1024)
    (partials,) = (op for op in planned.collectives if op.name == "partials")
    assert f"`{partials.size}`" in PAGE
    assert f"{partials.bytes(symbols):,} bytes" in PAGE
    assert f"{round(partials.sent_bytes(symbols)):,} bytes" in PAGE
