"""The README's commands exist, its links lead somewhere, and its figure is what its command draws."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from dessim.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_verbs_and_flags_exist() -> None:
    joined = README.replace("\\\n", " ")
    commands = [line.split("#")[0] for line in joined.splitlines() if line.startswith("    dessim ")]
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command)[1:]
        group = words[:2] if words[0] in ("topo", "trace") else words[:1]
        shown = CliRunner().invoke(app, [*group, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        for flag in (word for word in words if word.startswith("--")):
            assert flag in shown.stdout, (command, flag)


@pytest.mark.slow
def test_the_figure_is_what_its_command_draws(tmp_path: Path) -> None:
    joined = README.replace("\\\n", " ")
    command = next(line for line in joined.splitlines() if "--figure" in line)
    words = [str(tmp_path / "f.svg") if w == "docs/throughput.svg" else w for w in shlex.split(command)[1:]]
    assert CliRunner().invoke(app, words).exit_code == 0
    drawn, shown = (pd.read_csv(p) for p in (tmp_path / "f.csv", ROOT / "docs" / "throughput.csv"))
    pd.testing.assert_frame_equal(drawn, shown, rtol=1e-6)
