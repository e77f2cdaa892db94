"""`dessim trace import` on the command line, and other commands on the traces that it writes."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from dessim.cli.app import app
from tests.trace.importers.profiles import event, nccl, write


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_other_commands_accept_imported_traces(tmp_path):
    files, out = write(tmp_path, [nccl(0, False), nccl(1, False)], packed=True), tmp_path / "job.trace"
    code, text, _ = run("trace", "import", *files, "-o", out)
    assert code == 0 and "2 ranks (nccl on Tesla V100-SXM2-32GB), 1 step, 6 ops" in text
    assert "lacking: groups are not recorded" in text
    assert run("trace", "check", out)[0] == 0
    code, text, _ = run("trace", "info", out)
    (line,) = (line for line in text.splitlines() if "all_to_all.1" in line)
    assert line.split()[-4:] == ["10", "us", "12", "us"]  # median of 20 and 0 us of waiting; the transfer
    code, text, _ = run("replay", out, "--cluster", "one-switch_16", "--json")
    assert code == 0 and {op["name"] for op in json.loads(text)["comm_by_op"]} == {"all_to_all.1", "all_reduce.1"}
    job = ("--strategy", "table_wise", "--cluster", "one-switch_16", "--gpus", "8")
    code, _, error = run("project", out, *job)
    assert code == 1 and error.count("\n") == 1 and "can be replayed, not projected" in error


def test_json_output_is_one_object(tmp_path):
    write(tmp_path, [nccl(0, True), nccl(1, True)])
    code, text, _ = run("trace", "import", tmp_path, "--out", tmp_path / "job.trace", "--json")
    summary = json.loads(text)
    assert code == 0 and (summary["ranks"], summary["ops"], summary["lacking"]) == (2, 6, [])


def test_bad_input_is_reported_in_one_line_and_leaves_no_files(tmp_path):
    write(tmp_path, [nccl(0, True)])
    code, text, error = run("trace", "import", tmp_path, "-o", tmp_path / "job.trace")
    assert (code, text) == (1, "") and error.count("\n") == 1 and "ranks 1 as well" in error
    assert not (tmp_path / "job.trace").exists()
    code, _, error = run("trace", "import", tmp_path, "-o", tmp_path / "job")
    assert code == 2 and "NAME.trace" in error
    (tmp_path / "mine.trace").mkdir()
    (tmp_path / "mine.trace" / "thesis.txt").write_text("all of it")
    code, _, error = run(
        "trace", "import", *write(tmp_path, [nccl(0, True), nccl(1, True)]), "-o", tmp_path / "mine.trace"
    )
    assert code == 2 and "is not a trace" in error and (tmp_path / "mine.trace" / "thesis.txt").exists()


def test_info_omits_short_ops_if_there_are_hundreds(tmp_path):
    profiles = [nccl(0, True), nccl(1, True)]
    for profile in profiles:
        profile["traceEvents"] += [event(f"kernel_{n:03}", "kernel", 9, 1200 + n, 0.5 + n / 1000) for n in range(100)]
    write(tmp_path, profiles)
    assert run("trace", "import", tmp_path, "-o", tmp_path / "job.trace")[0] == 0
    _, text, _ = run("trace", "info", tmp_path / "job.trace")
    assert "and 61 shorter ops" in text  # of 101, including the GEMM
    assert "kernel_099" in text and "kernel_000" not in text and "all_reduce.1" in text and "all_to_all.1" in text
    description = json.loads(run("trace", "info", tmp_path / "job.trace", "--json")[1])
    assert len(description["by_op"]) == 103
