"""docs/exactness.md: its links exist, and its example agrees with the output of its commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "exactness.md").read_text()


def test_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) > 10
    for target in links:
        assert (DOCS / target).exists(), target


def test_the_example_agrees_with_the_output_of_its_commands() -> None:
    commands = re.findall(r"^    \$ dessim (.+)$", PAGE, re.MULTILINE)
    results = [json.loads(CliRunner().invoke(app, shlex.split(command)).stdout) for command in commands]
    assert len(results) == 2
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 5
    for key, *shown in rows:
        for result, text in zip(results, shown, strict=True):
            if key == "bound_by":
                assert result[key] == text
            else:
                assert result[key] == pytest.approx(float(text.replace(",", "")), rel=1e-9), key
