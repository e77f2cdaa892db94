"""docs/profiles.md and the study of recorded GPUs: links, commands and flags exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("page", ["docs/profiles.md", "studies/recorded_gpus/README.md"])
def test_links_commands_and_flags_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text.replace("\n", " ")):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target
    commands = [line.split("#")[0] for line in text.splitlines() if line.startswith("    dessim ")]
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command)[1:]
        shown = CliRunner().invoke(app, [*words[: 2 if words[0] == "trace" else 1], "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        for flag in (word for word in words if re.fullmatch("-o|--.+", word)):
            assert flag in shown.stdout, (command, flag)
