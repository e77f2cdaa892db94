"""docs/tutorials: every command of every page runs, in order and in one folder, and prints what the page shows.

A page is read as its reader reads it. A fenced `console` block has commands after `$ ` and what they print; a line
`...` stands for lines left out. A `toml` block is the file that the text before it names. Files of `samples/`, studies
and tests to which the page links are copied into the folder first. In a block `console measured` numbers are those of
one machine, and only the words are compared.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app
from tests import samples
from tests.forked import run_forked
from tests.pages import differing_numbers, words

TUTORIALS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
PAGES = sorted(TUTORIALS.glob("*.md"))
_FENCE = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = ("python3 -m venv ", ". ", "pip install ", "mpirun ")  # of `sh` blocks


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a page, what the page says that it prints, and whether the numbers are those of one machine."""

    line: str
    shown: str
    measured: bool


def blocks(page: Path) -> Iterator[tuple[str, str, str, str]]:
    """The fenced blocks of a page: the text before it, the language, the rest of its first line, the content."""
    text, end = page.read_text("utf-8"), 0
    for fence in _FENCE.finditer(text):
        yield text[end : fence.start()], *fence.groups()
        end = fence.end()


def commands(content: str, measured: bool) -> Iterator[Command]:
    """The commands of a console block, continued lines joined."""
    for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
        line, _, shown = part.replace("\\\n", " ").partition("\n")
        yield Command(line, shown.rstrip("\n"), measured)


def printed_by(line: str) -> str:
    """Run a command in the current folder and return what it prints, progress first."""
    program, *arguments = shlex.split(line)
    if program == "dessim":
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{line}\n{done.output}"
        return done.output
    if program == "cat":
        return "".join(Path(name).read_text() for name in arguments)
    if arguments[:2] == ["-m", "des_ref.certify"]:  # from this process, because it forks its ranks from the server
        return certify(arguments[2:])
    launcher = ["-m", "torch.distributed.run"] if program == "torchrun" else []
    assert program in ("python", "torchrun"), line
    done = run_forked([sys.executable, *launcher, *arguments], cwd=Path.cwd())
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stderr + done.stdout


def certify(arguments: list[str]) -> str:
    """The output of `python -m des_ref.certify`."""
    from des_ref.certify.program import main

    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        assert main(arguments) == 0
    return printed.getvalue()


def same(new: str, old: str, measured: bool) -> bool:
    """Whether a line printed is the line shown."""
    if measured:
        return _form(new) == _form(old)
    return words(new) == words(old) and not differing_numbers(new, old)


def _form(line: str) -> str:
    """A line without its numbers, their signs, units of time and thousands, and the widths of columns."""
    return " ".join(re.sub(r"[+−]?#( ([num]?s|[kMG])\b)?", "#", words(line)).split())


def assert_shown(command: Command, printed: str) -> None:
    """Require the shown lines, in order; a line `...` stands for any lines."""
    lines, position, gap = [line.rstrip() for line in printed.splitlines()], 0, False
    for shown in command.shown.splitlines():
        if shown.strip() == "...":
            gap = True
            continue
        fits = (i for i in range(position, len(lines)) if same(lines[i], shown.rstrip(), command.measured))
        found = next(fits, None)
        assert found is not None and (gap or found == position), f"{command.line}\nshown: {shown}\nprinted:\n{printed}"
        position, gap = found + 1, False
    assert gap or not command.shown or position == len(lines), f"{command.line}\nprinted more:\n{printed}"


def copy_samples(page: Path) -> None:
    """Copy the files that the page offers for download into the current folder."""
    for name in re.findall(r"\]\(((?:samples|[./]+(?:studies|tests))/[^)]+\.(?!md)\w+)\)", page.read_text("utf-8")):
        shutil.copyfile(page.parent / name, Path(name).name)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_print_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the trainer needs the [train] extra")
    monkeypatch.chdir(tmp_path)
    copy_samples(page)
    ran = 0
    for before, language, rest, content in blocks(page):
        if language == "console":
            for command in commands(content, measured=rest == "measured"):
                assert_shown(command, printed_by(command.line))
                ran += 1
        elif language == "toml":
            *_, name = re.findall(r"`([^`]+\.toml)`", before)
            Path(name).write_text(content)
        else:
            assert language == "sh", language
            assert all(line.startswith(_NOT_RUN) for line in content.splitlines()), content
    assert ran >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_page_is_short_and_says_what_to_trust(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(_FENCE.sub("", text).split()) <= 450
    heading, _, last = text.split("\n## ")[-1].partition("\n")
    assert heading.split() == ["What", "to", "trust"] and "](../trust.md" in last


def test_the_samples_are_what_their_program_writes() -> None:
    assert {path.name: samples.text_of(path) for path in samples.SAMPLES.iterdir()} == samples.samples()


def test_a_wrong_page_is_noticed() -> None:
    """Another number, another word, a missing line and an additional line."""
    command = Command("dessim", "step  16.86 ms\n...\nend", measured=False)
    assert_shown(command, "step  16.86 ms\nmore\nend\n")
    assert_shown(Command("dessim", "error  +8.4 %  2 ms", measured=True), "error −12 % 900 us\n")
    for printed in (
        "step  17.86 ms\nend\n",
        "pace  16.86 ms\nend\n",
        "step  16.86 ms\n",
        "step  16.86 ms\nend\nmore\n",
    ):
        with pytest.raises(AssertionError):
            assert_shown(command, printed)
