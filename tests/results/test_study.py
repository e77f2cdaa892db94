"""The end of a study: its files, its output and its exit code."""

from __future__ import annotations

import json

import pytest

from dessim.errors import UsageError
from dessim.results.study import conclude, run_study, study_parser

PAGE = "# Study\n<!-- made by plot.py -->\n{}<!-- end -->\nmore\n"


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "some_study"
    folder.mkdir()
    (folder / "README.md").write_text(PAGE.format("old\n"))
    (folder / "expected.json").write_text('{"share": 0.5}\n')
    return folder


def ended(here, *flags, found=0.5, **more):
    options = study_parser("Ask a question.\n\nMore.", here).parse_args(flags)
    return conclude(here, options, "new\n", {"data.csv": "a\n1\n"}, {"share": found}, **more)


def test_page_and_files_are_written_and_the_generated_part_is_printed(here, capsys):
    assert ended(here) == 0
    assert (here / "README.md").read_text() == PAGE.format("new\n") and (here / "data.csv").read_text() == "a\n1\n"
    assert tuple(capsys.readouterr()) == ("new\n", "")


def test_out_leaves_the_study_unchanged(here, tmp_path):
    assert ended(here, "--out", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "README.md").read_text() == PAGE.format("new\n")
    assert (here / "README.md").read_text() == PAGE.format("old\n") and not (here / "data.csv").exists()


def test_other_findings_exit_3_and_still_write(here, capsys):
    assert ended(here, found=0.6) == 3
    assert capsys.readouterr().err == "some_study: findings differ from expected.json\n"
    assert (here / "data.csv").exists() and json.loads((here / "expected.json").read_text()) == {"share": 0.5}
    assert ended(here, found=0.6, same=lambda a, b: abs(a["share"] - b["share"]) < 0.2) == 0


def test_update_makes_findings_the_expectation_unless_something_is_wrong(here, capsys):
    assert ended(here, "--update", found=0.6, wrong="a byte is not planned") == 3
    assert capsys.readouterr().err == "some_study: a byte is not planned\n"
    assert json.loads((here / "expected.json").read_text()) == {"share": 0.5}
    assert ended(here, "--update", found=0.6) == 0 == ended(here, found=0.6)


def test_a_users_mistake_is_reported_in_one_line(here, capsys):
    def main():
        raise UsageError("no such model")

    assert run_study(main, here) == 2
    assert capsys.readouterr().err == "some_study: error: no such model\n"
