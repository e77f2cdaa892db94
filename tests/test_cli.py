"""The command line as its users see it: one clear line per error, exit codes, valid JSON, help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import dessim
from dessim.cli.app import app
from dessim.trace.io import write_trace
from tests.trace.build import all_ops, header

MODELS = Path(dessim.__file__).parent / "workload" / "models"
RAIL = "h100-8x_rail_128"


def small_trace(folder: Path) -> Path:
    path = folder / "tiny.trace"
    write_trace(path, header(), all_ops())
    return path


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def refused(code: int, text: str, *arguments: str) -> None:
    """The command fails with `code` and one line on stderr that holds `text`; nothing goes to stdout."""
    exit_code, out, err = run(*arguments)
    assert (exit_code, out) == (code, ""), (exit_code, out, err)
    assert text in err
    assert len(err.strip().splitlines()) == 1, err


ON_RAIL = ("--cluster", RAIL, "--gpus", "16")
GOODPUT = ("--mtbf", "264 d", "--checkpoint", "60 s", "--restart", "10 min")
EIGHT = ("--gpus", "8")
RNG = ("--algorithm", "rng")
DIMS = ("--gpus", "16", "--dims", "3x3")
IDEAL = ("--strategy", "ps_sync", "--servers", "ideal")
DAYS = ("--mtbf", "90 days")
SPILL = ("--gpus", "8", "--spill")
COLLECTIVE = ("collective", "all_reduce", "--size", "1MiB")
ON_LAB = ("--cluster", "lab/switch_4", "--gpus", "4", "--network", "packet")
PROJECT = ("project", "--model", "deepfm", "--strategy", "des_all_reduce", "--cluster", RAIL)


@pytest.mark.parametrize(
    ("code", "text", "arguments"),
    [
        (2, "--gpus '0'", (*PROJECT, "--gpus", "0")),
        (2, "--gpus '-8'", (*PROJECT, "--gpus", "8,-8")),
        (2, "--gpus 'many'", (*PROJECT, "--gpus", "many")),
        (2, "an empty entry", (*PROJECT, "--gpus", "8,")),
        (2, "has 1024 GPUs, too few for 2048 ranks", (*PROJECT, "--gpus", "2048")),
        (2, "unknown strategy 'des'", (*PROJECT[:4], "des", *PROJECT[5:], "--gpus", "8")),
        (2, "not both", ("project", "x.trace", *PROJECT[1:], "--gpus", "8")),
        (1, "no such model file", ("project", "--model", "nope", *PROJECT[3:], "--gpus", "8")),
        (1, "no such topology", ("topo", "show", "h100")),
        (1, "no such trace folder", ("trace", "info", "nowhere.trace")),
        (1, "no such trace folder", ("replay", "nowhere.trace", "--cluster", RAIL)),
        (2, "has no unit", ("collective", "all_reduce", "--cluster", RAIL, "--gpus", "8", "--size", "64")),
        (2, "at least 2 GPUs", ("collective", "all_reduce", "--cluster", RAIL, "--gpus", "1", "--size", "64MiB")),
        (
            2,
            "no algorithm 'oak'",
            ("collective", "all_reduce", "--cluster", RAIL, "--gpus", "8", "--size", "1MiB", "--algorithm", "oak"),
        ),
        (2, "does not fit: a GPU needs", (*PROJECT, "--gpus", "1024", "--batch-per-worker", "16384")),
        (2, "has no node.pcie", ("project", "--model", "fm", *PROJECT[3:5], "--cluster", "one-switch_16", *SPILL)),
        (2, "on the fluid network only", (*PROJECT, "--strategy", "ps_async", "--gpus", "8", "--network", "packet")),
        (2, "write OP=NAME", (*PROJECT, "--gpus", "8", "--algorithm", "ring")),
        (2, "one strategy and one number of GPUs", (*PROJECT, "--gpus", "8,16", "--draw", "x.svg")),
        (2, "add --servers ideal", (*PROJECT, "--strategy", "ps_sync", "--gpus", "8", "--draw", "x.svg")),
        (2, "--csv '.': is a folder", (*PROJECT, "--gpus", "8", "--csv", "")),
        (2, "name it NAME.svg", (*PROJECT, "--gpus", "8", "--figure", "x.png")),
        (2, "--figure also writes x.csv", (*PROJECT, "--gpus", "8", "--figure", "x.svg", "--csv", "./x.csv")),
        (2, "name it NAME.svg", ("topo", "draw", RAIL, "-o", "map")),
        (2, "--out/-o '': name a folder", ("demo", "-o", "")),
        (2, "no lab called none is up", ("lab", "run", "--name", "none", "--logs", ".", "--", "true")),
        (2, "at most 1 EiB", ("collective", "all_reduce", *ON_RAIL, "--size", "1e25B")),
        (2, "--chunks: at most", ("collective", "all_reduce", *ON_RAIL, "--size", "1MiB", "--chunks", "9" * 30)),
        (2, "--gpus '9999", (*PROJECT, "--gpus", "9" * 5000)),
        (2, "--nodes: at most", ("goodput", "--nodes", "9" * 400, *GOODPUT)),
        (2, "unknown strategy 'table-wise'; did you mean table_wise?", (*PROJECT, "--strategy", "table-wise", *EIGHT)),
        (2, "did you mean des_all_reduce or des_reduce_scatter?", (*PROJECT, "--strategy", "des", *EIGHT)),
        (1, "no such model file; did you mean deepfm?", (*PROJECT, "--model", "DeepFM", *EIGHT)),
        (1, "h100-8x: no such topology; did you mean h100-", ("topo", "show", "h100-8x")),
        (1, "no such topology; all: dessim topo list; or give a .toml file", ("topo", "show", "cray")),
        (1, "did you mean nccl-roce?", (*PROJECT, *EIGHT, "--transport", "nccl_roce")),
        (2, "did you mean h100-sxm?", (*PROJECT, *EIGHT, "--device", "h100_sxm")),
        (2, "--algorithm: no algorithm 'rng' for all_reduce; did you mean ring?", (*COLLECTIVE, *ON_RAIL, *RNG)),
        (2, "--codec: codec 'bf15': did you mean bf16? use fp32", (*PROJECT, *EIGHT, "--codec", "bf15")),
        (2, "--codec: codec 'topk': did you mean top_k? use fp32", (*PROJECT, *EIGHT, "--codec", "topk")),
        (2, "--gpus 8,16,8: 8 is named twice", (*PROJECT, "--gpus", "8,16,8")),
        (2, "--gpus 8,08: 8 is named twice", (*PROJECT, "--gpus", "8,08")),
        (2, "--strategy mesh,mesh: mesh is named twice", (*PROJECT, "--strategy", "mesh,mesh", *EIGHT)),
        (2, "packet needs a gloo transport, and not nccl-ib", (*PROJECT, *EIGHT, "--network", "packet")),
        (2, "add --transport gloo-tcp", (*COLLECTIVE, *ON_RAIL, "--network", "packet")),
        (2, "--fold off: not with --network packet", (*PROJECT, *EIGHT, "--network", "packet", "--fold", "off")),
        (2, "--chunks, --dims: not with --network", (*COLLECTIVE, *ON_LAB, "--chunks", "2", "--dims", "2x2")),
        (2, "--algorithm: not with --network packet", (*COLLECTIVE, *ON_LAB, "--algorithm", "ring")),
        (2, "--tolerance: not with --network packet", (*COLLECTIVE, *ON_LAB, "--tolerance", "0.1")),
        (1, "--faults no.toml: no such file", (*PROJECT, *EIGHT, "--faults", "no.toml")),
        (1, "--model no.toml: no such file", (*PROJECT, *EIGHT, "--model", "no.toml")),
        (1, "--plan no.toml: no such file", (*PROJECT, "--plan", "no.toml")),
        (1, "--ids no.toml: no such file", (*PROJECT, *EIGHT, "--ids", "no.toml")),
        (1, "--transport no.toml: no such file", (*COLLECTIVE, *ON_RAIL, "--transport", "no.toml")),
        (1, "--against no.json: no such file", (*PROJECT, *EIGHT, "--html", "x.html", "--against", "no.json")),
        (1, "--measured no.json: no such file", ("validate", "--measured", "no.json")),
        (2, "'days' is not a unit of time; write for example", ("goodput", "--nodes", "8", *GOODPUT[2:], *DAYS)),
        (2, "; units: ns, us, µs, ms, s, min, h, d", ("goodput", "--nodes", "8", *GOODPUT[2:], *DAYS)),
        (1, "mine.json: is no golden file of dessim", ("check", "mine.json")),
        (1, "mine.toml: name: missing; kind: unknown key", ("model", "check", "mine.toml")),
        (2, "--data nosuch: write ml-100k, synthetic, or the path of a file", ("demo", "--data", "nosuch")),
        (2, "--strategy 'mash': the demo records a trace; did you mean mesh?", ("demo", "--strategy", "mash")),
        (2, "--dims 3x3 are not factors of 16 ranks", (*COLLECTIVE, "--cluster", "one-switch_16", *DIMS)),
        (2, "--dims has no effect on what NCCL chooses", (*COLLECTIVE, "--cluster", RAIL, *DIMS)),
        (2, "--chunks has no effect on what NCCL chooses", (*COLLECTIVE, *ON_RAIL, "--chunks", "4")),
        (2, "--root has no effect on auto all_reduce; leave it out", (*COLLECTIVE, *ON_RAIL, "--root", "3")),
        (2, "--server-threads is for ps_sync and ps_async", (*PROJECT, *EIGHT, "--server-threads", "4")),
        (2, "--seed is for ps_sync and ps_async", (*PROJECT, *EIGHT, "--seed", "4")),
        (2, "--server-device is for ps_sync", (*PROJECT, *EIGHT, "--server-device", "h100-sxm")),
        (2, "--server-threads is for dedicated", (*PROJECT, *IDEAL, *EIGHT, "--server-threads", "4")),
        (2, "--seed is for dedicated", (*PROJECT, *IDEAL, *EIGHT, "--seed", "4")),
        (2, "did you mean all_reduce? write OP=NAME", (*PROJECT, *EIGHT, "--algorithm", "allreduce=ring")),
        (2, "name one size", ("collective", "all_reduce", *ON_RAIL, "--size", "1MiB,2MiB", "--draw", "x.svg")),
    ],
)
def test_mistakes_get_one_line_and_the_right_code(
    code: int, text: str, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text('{"rows": []}')
    (tmp_path / "mine.toml").write_text(
        'kind = "dlrm"\n' + (MODELS / "deepfm.toml").read_text().replace('name = "deepfm"\n', "")
    )
    refused(code, text, *arguments)


def test_a_trace_with_an_unknown_group_or_peer_is_refused_and_the_check_says_so(tmp_path: Path) -> None:
    for change, says in (({"group": "nowhere"}, "group 'nowhere'"), ({"peer": 9}, "has peer 9, but the job has ranks")):
        ops = all_ops()
        ops[1][1] = replace(ops[1][1], **change)
        write_trace(tmp_path / "tiny.trace", header(), ops)
        path = str(tmp_path / "tiny.trace")
        refused(1, says, "replay", path, "--cluster", "one-switch_16")
        code, out, _ = run("trace", "check", path)
        assert code == 3 and says in out
        assert run("trace", "info", path)[0] == 0


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("'--gpus': ", (*COLLECTIVE, "--cluster", RAIL, "--gpus", "8,16")),
        ("did you mean all_reduce?", ("collective", "all-reduce", *ON_RAIL, "--size", "1MiB")),
        ("'--network': ", (*COLLECTIVE, *ON_RAIL, "--network", "foo")),
        ("'--jitter': ", (*PROJECT, *EIGHT, "--jitter", "some")),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_in_plain_words(text: str, arguments: tuple[str, ...]) -> None:
    code, _, err = run(*arguments)
    assert code == 2 and text in err
    assert not any(words in err for words in ("Value error", "Input should be a valid", "unable to parse"))


def test_usage_errors_exit_2() -> None:
    for arguments in (("frobnicate",), ("project",), ("topo", "show"), ("collective", "reduce", "--cluster", RAIL)):
        assert run(*arguments)[0] == 2


def test_a_bad_topology_file_names_file_key_and_unit(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('gpu = "h100-sxm"\ntransport = "ideal"\nspeed = 3\n[node]\ncount = 2\ngpus = 1\nnics = 1\n'
                    '[node.nic]\nrate = 400\nefficiency = 1.0\nlatency = "1 us"\nsource = "x"\n'
                    '[fabric]\nkind = "single_switch"\n')  # fmt: skip
    code, _, err = run("topo", "check", str(path))
    assert code == 1
    assert str(path) in err and "speed" in err and "node.nic.rate" in err and "400 Gb/s" in err


def test_json_objects_parse_and_carry_their_version(tmp_path: Path) -> None:
    trace = small_trace(tmp_path)
    commands: list[tuple[str, ...]] = [
        ("topo", "list"),
        ("topo", "show", RAIL),
        ("topo", "check", RAIL),
        ("collective", "all_reduce", "--cluster", RAIL, "--gpus", "16", "--size", "64MiB", "--algorithm", "ring"),
        (*PROJECT, "--gpus", "8"),
        ("trace", "info", str(trace)),
        ("trace", "check", str(trace)),
        ("replay", str(trace), "--cluster", "one-switch_16"),
    ]
    for command in commands:
        code, out, err = run(*command, "--json")
        assert (code, err) == (0, ""), (command, code, out, err)
        assert json.loads(out)["schema_version"] == 1
        code, out, _ = run(*command)
        assert code == 0 and out.strip()


def test_project_rows_have_what_they_promise() -> None:
    strategies = "des_all_reduce,des_reduce_scatter,table_wise,ps_sync"
    model, machine = ("--model", "deepfm"), ("--cluster", RAIL)
    _, out, _ = run("project", *model, "--strategy", strategies, *machine, "--gpus", "8,64", "--json")
    rows = json.loads(out)["projection"]
    assert [(r["gpus"], r["strategy"]) for r in rows] == [(n, s) for n in (8, 64) for s in strategies.split(",")]
    for row in rows:
        parts = row["compute_s"] + row["exposed_comm_s"] + row["idle_s"]
        assert row["step_time_s"] == pytest.approx(parts)
        assert row["samples_per_s"] == pytest.approx(row["batch"] / row["step_time_s"])
        assert row["bytes_per_worker"] == pytest.approx(sum(row["bytes_by_traffic"].values()))
        assert row["memory_bytes"] == pytest.approx(sum(row["memory"].values()))
        assert row["does_not_fit"] is None and row["spill"] is None
        parts = {"compute", "communication", "sizes", "memory"}
        assert set(row["provenance"]) == (parts | {"servers"} if row["strategy"] == "ps_sync" else parts)


def test_the_same_command_prints_the_same_bytes_folded_or_not() -> None:
    command = (*PROJECT, "--gpus", "16,64", "--json")
    first = run(*command)[1]
    assert run(*command)[1] == first
    whole, folded = (json.loads(text)["projection"] for text in (run(*command, "--fold", "off")[1], first))
    for a, b in zip(whole, folded, strict=True):
        assert a["step_time_s"] == pytest.approx(b["step_time_s"], rel=1e-9)
        assert a["bound_by"] == b["bound_by"]


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    csv, svg = tmp_path / "rows.csv", tmp_path / "rail.svg"
    assert run(*PROJECT, "--gpus", "8", "--csv", str(csv))[0] == 0
    assert csv.read_text().startswith("gpus,strategy,")
    assert run("topo", "draw", RAIL, "--out", str(svg))[0] == 0
    assert svg.read_text().startswith("<svg")
    before = svg.read_text()
    refused(1, "no such topology", "topo", "draw", "nope", "--out", str(svg))
    assert svg.read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rail.svg", "rows.csv"]


@pytest.mark.parametrize(
    "command", [(*PROJECT, "--gpus", "16"), ("collective", "all_reduce", *ON_RAIL, "--size", "64MiB")]
)
def test_a_run_is_drawn_with_the_use_of_its_links(command: tuple[str, ...], tmp_path: Path) -> None:
    svg, again, plain = tmp_path / "use.svg", tmp_path / "again.svg", tmp_path / "plain.svg"
    printed = run(*command, "--draw", str(svg))
    assert printed[0] == 0 and run(*command, "--draw", str(again))[0] == 0
    assert run("topo", "draw", RAIL, "--out", str(plain))[0] == 0
    assert svg.read_bytes() == again.read_bytes() != plain.read_bytes()
    assert "mean use of a link class" in svg.read_text() and "mean use" not in plain.read_text()
    refused(1, "", *command, "--draw", str(plain / "inside-a-file.svg"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.svg", "plain.svg", "use.svg"]


def test_replay_writes_a_timeline(tmp_path: Path) -> None:
    trace, timeline = small_trace(tmp_path), tmp_path / "t.json.gz"
    assert run("replay", str(trace), "--cluster", "one-switch_16", "--timeline", str(timeline))[0] == 0
    assert timeline.stat().st_size > 100


def test_a_full_disk_is_reported_in_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dessim", "topo", "list", "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr


def test_a_reader_that_closes_the_pipe_causes_no_traceback() -> None:
    command = f"{sys.executable} -m dessim topo draw {RAIL} | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def visible_commands() -> list[tuple[str, ...]]:
    """Every verb and every command of a group."""
    root = get_command(app)
    names: list[tuple[str, ...]] = [()]
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        names += [(name,), *((name, inner) for inner in getattr(command, "commands", ()))]
    return names


@pytest.mark.parametrize("names", visible_commands(), ids=" ".join)
def test_help_fits_80_columns_and_cuts_no_sentence(names: tuple[str, ...]) -> None:
    text = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "80"}).stdout
    assert max(map(len, text.splitlines())) <= 80
    assert not [line for line in text.splitlines() if line.endswith("...") and not line.startswith("Usage")]


@pytest.mark.parametrize("group", ["", "model", "trace"])
def test_a_narrow_terminal_folds_the_lines_of_verbs(group: str) -> None:
    # A process, because CliRunner has its own width.
    command = [sys.executable, "-m", "dessim", *group.split(), "--help"]
    text = subprocess.run(command, env={**os.environ, "COLUMNS": "60"}, capture_output=True, text=True).stdout
    assert "Commands:" in text and "..." not in text.partition("Commands:")[2]
    assert max(map(len, text.splitlines())) <= 60


def test_an_option_has_the_same_help_everywhere() -> None:
    # These mean something else for each verb: a value of another kind, or another thing to write.
    differing = {"--out", "--gpus", "--strategy", "--algorithm", "--seed", "--lab", "--cluster", "--ranks", "--plan"}
    root = get_command(app)
    helps: dict[str, set[str]] = {}
    for names in visible_commands():
        command = root
        for name in names:
            command = command.commands[name]  # type: ignore[attr-defined]
        for option in (parameter for parameter in command.params if parameter.param_type_name == "option"):
            helps.setdefault(option.opts[0], set()).add(option.help)  # type: ignore[attr-defined]
    assert {name for name, sentences in helps.items() if len(sentences) > 1} <= differing
    assert {"--csv", "--json", "--figure"} <= helps.keys()


def test_shell_completion_is_there_without_noise_in_the_help() -> None:
    code, out, _ = run("--help")
    assert code == 0 and out.count("completion") == 2 and "--show-completion" not in out
    completed = subprocess.run(
        [sys.executable, "-m", "dessim"],
        env={
            **os.environ,
            "_DESSIM_COMPLETE": "complete_bash",
            "COMP_WORDS": "dessim collective all",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
    )
    assert completed.stdout.split() == ["all_reduce", "all_gather", "all_to_all"]


@pytest.mark.parametrize("flag", ["-o", "--out", "--output"])
def test_calibrate_keeps_its_old_flag(flag: str, tmp_path: Path) -> None:
    assert run("calibrate", "--plan", "4", flag, str(tmp_path / "plan.json"))[0] == 0
    assert (tmp_path / "plan.json").exists()


def test_help_needs_neither_numpy_nor_torch() -> None:
    code = "import sys, dessim.cli.app; sys.exit(bool({'numpy', 'torch', 'networkx', 'seaborn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ""}).returncode == 0
