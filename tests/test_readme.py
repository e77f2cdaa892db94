"""README.md and docs/README.md: commands run or exist, links exist, the map is complete, and the README is short."""

from __future__ import annotations

import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from dessim.cli.app import app
from tests.forked import run_forked

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "README.md"
GROUPS = ("topo", "trace", "lab")  # commands of dessim that have subcommands
MAX_WORDS = 900

# Commands of the README that a test does not run, and why. For these the test checks that their flags exist.
NOT_RUN = {
    "make demo": "takes more than a minute",
    "make test": "would run this test",
    "torchrun": "starts several processes and downloads MovieLens-100K",
    "python -m des_ref.certify": "takes more than 10 s",
}


def commands(page: Path) -> list[str]:
    """Return the command lines of a page: indented, without comments, continued lines joined."""
    joined = page.read_text("utf-8").replace("\\\n", " ")
    names = ("dessim ", "python ", "torchrun ", "make ", "zcat ")
    lines = (line.strip() for line in joined.splitlines() if line.startswith("    "))
    return [line.partition(" #")[0].strip() for line in lines if line.startswith(names)]


@cache
def help_of(module: str) -> str:
    """The help page of `python -m module`."""
    shown = run_forked([sys.executable, "-m", module, "--help"])
    assert shown.returncode == 0, shown.stderr
    return shown.stdout + shown.stderr


def assert_flags_exist(command: str) -> None:
    """Require that the command, its subcommand and every flag that it uses exist."""
    words = shlex.split(command.rpartition("|")[2])
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
        return
    if words[0] == "dessim":
        group = words[1:3] if words[1] in GROUPS else words[1:2]
        shown = CliRunner().invoke(app, [*group, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        text = shown.stdout
        arguments = words[1:]
    elif "-m" in words:
        module = words.index("-m") + 1
        text = help_of(words[module])
        arguments = words[module + 1 :]
    else:
        assert (ROOT / words[1]).is_file(), command
        return
    for flag in (word for word in arguments if re.fullmatch(r"-[a-z]|--[a-z].*", word)):
        assert re.search(rf"(?<![\w-]){flag}\b", text), (command, flag)


def runnable(page: Path) -> list[str]:
    return [line for line in commands(page) if not line.startswith(tuple(NOT_RUN))]


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").split()) <= MAX_WORDS


PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "studies").glob("*/README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [README, INDEX], ids=["README", "index"])
def test_commands_and_flags_exist(page: Path) -> None:
    lines = commands(page)
    assert len(lines) >= 10
    for line in lines:
        assert_flags_exist(line)


def test_every_exception_is_a_command_of_the_readme() -> None:
    for prefix in NOT_RUN:
        assert any(line.startswith(prefix) for line in commands(README)), prefix
    assert len(runnable(README)) >= 5


@pytest.mark.slow
@pytest.mark.torch
def test_the_readmes_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one folder: the trace that one command writes is the input of the next."""
    pytest.importorskip("torch", reason="the trainer needs the [train] extra")
    monkeypatch.chdir(tmp_path)
    for line in runnable(README):
        program, *arguments = shlex.split(line)
        if program == "dessim":  # in this process, which has imported what it needs
            shown = CliRunner().invoke(app, arguments)
            code, printed = shown.exit_code, shown.output
        else:
            done = run_forked([sys.executable, *arguments], cwd=tmp_path)
            code, printed = done.returncode, done.stdout + done.stderr
        assert code == 0, f"{line}\n{printed}"
        assert printed.strip(), line


def test_the_map_lists_every_package() -> None:
    """Packages of dessim and des_ref, to the depth of a sub-package, and the top-level folders."""
    text = README.read_text("utf-8")
    for top in ("dessim", "des_ref"):
        for marker in sorted((ROOT / top).glob("*/__init__.py")) + sorted((ROOT / top).glob("*/*/__init__.py")):
            package = marker.parent.relative_to(ROOT / top).as_posix()
            assert f"`{package}/`" in text or f"`{package.rpartition('/')[2]}/`" in text, f"{top}/{package}"
    for top in ("dessim", "des_ref", "topologies", "studies", "tests", "docs"):
        assert f"`{top}/`" in text, top


def test_every_page_and_study_is_in_the_index() -> None:
    text = INDEX.read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page == INDEX or f"({page.relative_to(INDEX.parent).as_posix()})" in text, page.name
    for study in (ROOT / "studies").glob("*/README.md"):
        assert f"(../studies/{study.parent.name}/README.md)" in text, study.parent.name


@pytest.mark.slow
def test_the_figure_agrees_with_its_command(tmp_path: Path) -> None:
    command = next(line for line in commands(INDEX) if "docs/throughput.svg" in line)
    words = [str(tmp_path / "f.svg") if word == "docs/throughput.svg" else word for word in shlex.split(command)[1:]]
    assert CliRunner().invoke(app, words).exit_code == 0
    drawn = pd.read_csv(tmp_path / "f.csv")
    kept = pd.read_csv(ROOT / "docs" / "throughput.csv")
    pd.testing.assert_frame_equal(drawn, kept, rtol=1e-6)
