"""`dessim trace import` on the command line, and the other verbs on what it writes."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from dessim.cli.app import app
from tests.trace.importers.profiles import nccl, write


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_profiles_are_imported_and_the_other_verbs_take_what_comes_out(tmp_path):
    files, out = write(tmp_path, [nccl(0, False), nccl(1, False)], packed=True), tmp_path / "job.trace"
    code, text, _ = run("trace", "import", *files, "-o", out)
    assert code == 0 and "2 ranks (nccl on Tesla V100-SXM2-32GB), 1 steps, 6 ops" in text
    assert "lacking: groups are not recorded" in text
    assert run("trace", "check", out)[0] == 0
    code, text, _ = run("trace", "info", out)
    (line,) = (line for line in text.splitlines() if "all_to_all.1" in line)
    assert line.split()[-4:] == ["10", "us", "12", "us"]  # waiting: 20 and 0 us; transfer
    code, text, _ = run("replay", out, "--cluster", "one-switch_16", "--json")
    assert code == 0 and {op["name"] for op in json.loads(text)["comm_by_op"]} == {"all_to_all.1", "all_reduce.1"}


def test_its_json_is_one_object(tmp_path):
    write(tmp_path, [nccl(0, True), nccl(1, True)])
    code, text, _ = run("trace", "import", tmp_path, "--out", tmp_path / "job.trace", "--json")
    found = json.loads(text)
    assert code == 0 and (found["ranks"], found["ops"], found["lacking"]) == (2, 6, [])


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    write(tmp_path, [nccl(0, True)])
    code, text, error = run("trace", "import", tmp_path, "-o", tmp_path / "job.trace")
    assert (code, text) == (1, "") and error.count("\n") == 1 and "ranks 1 as well" in error
    assert not (tmp_path / "job.trace").exists()
    code, _, error = run("trace", "import", tmp_path, "-o", tmp_path / "job")
    assert code == 2 and "NAME.trace" in error
