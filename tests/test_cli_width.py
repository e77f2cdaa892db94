"""Tables fit the terminal: at 80 columns no line is longer, no header is cut, and left-out columns are named."""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app
from dessim.results.tables import print_table
from dessim.sim.servers import parameter_server
from dessim.validate.outcome import Outcome
from dessim.validate.plans import Choice
from dessim.validate.report import case_table, choice_table, summary_table
from tests.test_cli import RAIL

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "studies" / "recorded_gpus"
TRACE = str(RECORDED / "dlrm_8xV100.trace")
V100 = str(RECORDED / "v100_cube_mesh.toml")
STRATEGIES = "des_all_reduce,des_reduce_scatter,table_wise,ps_sync+hot_rows=1000,row_all_to_all+hot_rows=500+look_ahead"
COMMANDS = {
    "project": ("project", "--model", "deepfm", "--strategy", STRATEGIES, "--cluster", RAIL, "--gpus", "8,64"),
    "project, one step": (
        *("project", "--model", "deepfm", "--strategy", "table_wise", "--cluster", RAIL, "--gpus", "16"),
        *("--what-if", "2x:nic_rate"),
    ),
    "project with servers": (
        *("project", "--model", "deepfm", "--strategy", "ps_async", "--cluster", RAIL, "--gpus", "8"),
        *("--servers", "2", "--staleness", "4"),
    ),
    "plan": ("plan", "--model", "deepfm", "--cluster", RAIL, "--gpus", "8", "--batch", "4096"),
    "collective": ("collective", "all_reduce", "--cluster", RAIL, "--gpus", "16", "--size", "1MiB,1GiB"),
    "replay": ("replay", TRACE, "--cluster", V100),
    "tenants": ("tenants", str(ROOT / "docs" / "tenants" / "spread.toml")),
    "topo list": ("topo", "list"),
    "model list": ("model", "list"),
    "model show": ("model", "show", "criteo_1tb"),
    "model check": ("model", "check", "fm"),
    "validate": ("validate", "--published"),
    "topo show": ("topo", "show", "a100-8x_tworooms_12"),
    "trace info": ("trace", "info", TRACE),
    "trace collectives": ("trace", "collectives", TRACE, "--cluster", V100),
    "goodput": (
        *("goodput", "--nodes", "2048", "--mtbf", "264 d", "--checkpoint", "60 s", "--restart", "10 min"),
        *("--days", "3", "--runs", "2"),
    ),
}


LONG_NAMES = ("trace info", "replay", "topo show")  # of kernels, and of a file


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate eight steps per worker with parameter servers; tables have the same columns after more."""
    monkeypatch.setattr(parameter_server, "MEASURED_IN_TOTAL", 1)


@functools.cache
def output(command: tuple[str, ...], width: int) -> str:
    result = CliRunner().invoke(app, list(command), env={"COLUMNS": str(width)})
    assert result.exit_code == 0, result.stderr
    return result.stdout


def headers(text: str) -> list[list[str]]:
    """The headers of each table: the line above a rule, at gaps of at least two blanks."""
    lines = text.splitlines()
    return [re.split(r"\s{2,}", above.strip()) for above, line in itertools.pairwise(lines) if line.startswith(" ─")]


def left_out(text: str) -> list[str]:
    """The columns that the lines below the tables name as left out."""
    joined = re.sub(r"\s*\n", " ", text)
    return [
        name for names in re.findall(r"not shown for lack of width: (.*?) \(", joined) for name in names.split(", ")
    ]


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_table_fits_the_terminal_and_names_the_columns_it_leaves_out(name: str, width: int) -> None:
    whole = output(COMMANDS[name], 400)
    narrow = output(COMMANDS[name], width)
    assert max(map(len, narrow.splitlines())) <= width
    assert "…" not in narrow and not left_out(whole)
    shown = [header for table in headers(narrow) for header in table]
    assert sorted(shown + left_out(narrow)) == sorted(header for table in headers(whole) for header in table)


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in LONG_NAMES])
def test_no_word_is_broken_and_no_mark_stands_alone(name: str, width: int) -> None:
    narrow = re.sub(r"not shown for lack of width:[^)]*\)", "", output(COMMANDS[name], width))
    wide = output(COMMANDS[name], 400)
    words, whole = ({word.strip(";") for word in re.sub("─+", "", text).split()} for text in (narrow, wide))
    assert max(map(len, narrow.splitlines())) <= width and words <= whole
    assert not re.search(r"^ +\*(  |$)", narrow, re.MULTILINE)


def test_the_names_of_kernels_break_behind_a_separator() -> None:
    narrow = output(COMMANDS["trace info"], 60)
    assert "\n split_embedding_backward_codegen_ " in narrow and "\n adagrad_unweighted_kernel_cta_" in narrow


def test_the_columns_of_a_table_without_droppable_ones_fold_at_separators() -> None:
    clusters = ("h100-8x_rail_128", "a100-4x_dragonflyplus_3456")
    found = CliRunner().invoke(app, ["topo", "diff", *clusters], env={"COLUMNS": "60"})
    assert found.exit_code == 1 and max(map(len, found.stdout.splitlines())) <= 60
    assert re.search(r"^ node\.nvswitch\. +64 +-$\n ports$", re.sub(r" +$", "", found.stdout, flags=re.M), re.M)


@pytest.mark.parametrize("width", [60, 80])
def test_tenants_explain_only_what_they_show(width: int) -> None:
    narrow = output(COMMANDS["tenants"], width)
    assert ("step alone:" in narrow) == any("step alone" in table for table in headers(narrow))
    assert "step alone:" in output(COMMANDS["tenants"], 400)


def test_a_cluster_has_rates_and_memory_in_their_units() -> None:
    lines = [line.split() for line in output(("topo", "show", "lab/switch_8"), 400).splitlines()]
    assert ["gpu", "memory", "3.725", "GiB"] in lines and ["bisection", "23.91", "MB/s"] in lines
    assert ["NIC,", "sending", "8", "5.978", "MB/s", "50", "us"] in lines


def test_the_intervals_of_goodput_are_minutes_or_hours() -> None:
    text = output(COMMANDS["goodput"], 400)
    assert re.search(r"best, simulated +21\.4 min ", text) and "a failure every 3.09 h" in text


def test_titles_are_as_wide_as_the_terminal() -> None:
    assert output(COMMANDS["replay"], 80).startswith("recorded, 8 ranks on v100_cube_mesh, 1 step\n")


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("name", ["project", "project, one step", "project with servers"])
def test_a_projection_always_shows_scale_strategy_speed_and_bound(name: str, width: int) -> None:
    narrow = output(COMMANDS[name], width)
    assert {"GPUs", "strategy", "step", "samples/s", "bound by"} <= set(headers(narrow)[0])
    assert " *" in narrow and "* fastest at this scale" in narrow


@pytest.mark.parametrize("width", [60, 80])
def test_a_plan_always_shows_its_speed_and_bound(width: int) -> None:
    narrow = output(COMMANDS["plan"], width)
    assert {"plan", "step", "samples/s", "bound by"} <= set(headers(narrow)[0]) and " *" in narrow


def test_without_a_fastest_row_no_star_is_explained() -> None:
    ideal = (
        "project",
        "--model",
        "fm",
        "--strategy",
        "ps_sync",
        "--servers",
        "ideal",
        "--cluster",
        RAIL,
        "--gpus",
        "8",
    )
    assert "fastest" not in output(ideal, 100)


def test_the_tables_of_validate_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "two_leaves_4to1: des_reduce_scatter of deepfm_multihot, pipelined, 8 ranks"
    chosen = {"split": "held_out", "best": "small tables copied, " * 3, "regret": 0.0, "rank_correlation": 1.0}
    outcomes = [Outcome(name=name, kind="steps", split="held_out", predicted_s=0.5218, measured_s=0.5223)]
    print_table(case_table(outcomes))
    print_table(summary_table(outcomes))
    print_table(choice_table([Choice(job="switch_6 x 0.15, " + "ads " * 20, **chosen)]))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert headers(text)[0] == ["split", "case", "predicted", "measured", "error"]


def test_validate_writes_sizes_as_people_do(capsys: pytest.CaptureFixture[str]) -> None:
    name = "fan_out 33554432 B, 2 ranks"
    print_table(case_table([Outcome(name=name, kind="messages", split="calibration", predicted_s=1.0, measured_s=1.0)]))
    assert "fan_out 32 MiB, 2 ranks" in capsys.readouterr().out


def test_files_get_every_column_without_an_exported_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    result = CliRunner().invoke(app, list(COMMANDS["project"]))
    assert "idle" in headers(result.stdout)[0] and not left_out(result.stdout)
