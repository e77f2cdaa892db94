"""The public names: stable, documented, with examples that run, and deprecated before they go."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from dessim.api.page import page, surface

ROOT = Path(__file__).resolve().parents[2]
SURFACE = Path(__file__).with_name("surface.txt")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_names_signatures_and_fields_are_stable() -> None:
    """A change here reaches every user: deprecate first, then record with `python -m tests.api.test_surface`."""
    assert surface() == SURFACE.read_text("utf-8")


def test_the_page_is_up_to_date() -> None:
    assert page() == (ROOT / "docs" / "api.md").read_text("utf-8"), "run python -m dessim.api.page > docs/api.md"


@pytest.mark.parametrize("module", ["load", "studies", "regression"])
def test_examples_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    failed, tried = doctest.testmod(importlib.import_module(f"dessim.api.{module}"), optionflags=OPTIONS)
    assert tried and not failed


if __name__ == "__main__":
    SURFACE.write_text(surface(), "utf-8")
