"""docs/parameter_servers.md: its example agrees with the output of its command."""

from __future__ import annotations

import shlex
from pathlib import Path

from typer.testing import CliRunner

from dessim.cli.app import app

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "parameter_servers.md").read_text()


def test_the_example_agrees_with_the_output_of_its_command() -> None:
    joined = PAGE.replace("\\\n", " ")
    command = next(line for line in joined.splitlines() if line.startswith("    dessim project"))
    words = shlex.split(command.replace("16,64,256", "16"))[1:]  # only the first block, to save time
    run = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert run.exit_code == 0, run.output

    def rows_in(text: str) -> list[list[str]]:
        lines = (line.partition("±")[0] for line in text.splitlines())  # the page omits the column `error bar`
        rows = [line.split() for line in lines if " ms " in line]
        return [[word for word in row if word not in ("16", "*")] for row in rows[:3]]

    for printed, shown in zip(rows_in(run.output), rows_in(PAGE), strict=True):
        at = next(i for i, (a, b) in enumerate(zip(printed, shown, strict=False)) if a != b)
        assert printed[:at] + printed[at + 2 :] == shown  # the page omits the column `idle`
