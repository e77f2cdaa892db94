"""docs/importing.md: its two worked examples are what the commands write today, and commands, flags and links exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app
from tests.cluster.importers import fuzz, servers
from tests.cluster.importers.ib_net import ib_net
from tests.cluster.importers.test_same_times import A100, RAILS, original_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "importing.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def commands() -> list[str]:
    return [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    dessim ")]


def write_inputs() -> None:
    """The files of the examples, as the cluster's tools would have written them."""
    Path("ibnetdiscover.txt").write_text(ib_net(original_of(Path(), A100, 16, RAILS), 25e9))
    Path("nccl.xml").write_text(servers.dgx_a100())
    Path("topo-m.txt").write_text(servers.nvidia_smi())
    Path("topology.conf").write_text(fuzz.SLURM)


def test_the_examples_are_what_the_commands_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs()
    imports = list(dict.fromkeys(line for line in commands() if line.startswith("dessim topo import")))
    for line, shown, listed in zip(imports, blocks("toml"), blocks("text"), strict=True):
        words = shlex.split(line)[1:]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert Path(words[words.index("-o") + 1]).read_text() == shown
        assert done.stderr == listed
        assert CliRunner().invoke(app, ["topo", "check", words[words.index("-o") + 1]]).exit_code == 0


def test_commands_flags_and_links_exist() -> None:
    assert len(commands()) >= 6
    for command in commands():
        words = shlex.split(command.partition("#")[0])[1:]
        shown = CliRunner().invoke(app, [*words[:2], "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        for flag in (word for word in words if re.fullmatch("-o|--.+", word)):
            assert flag in shown.stdout, (command, flag)
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
