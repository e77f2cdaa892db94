"""Study files: their points in order, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from dessim.cluster.load import list_topologies
from dessim.errors import FileError
from dessim.sweep.axes import AXES, KNOBS
from dessim.sweep.cases import resolve
from dessim.sweep.grid import read_study

GRID = """
[grid]
model = "lr"
cluster = "one-switch_16"
strategy = "des_all_reduce"
"""


def study(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, "utf-8")
    return path


def labels(folder: Path, text: str, *axes: str) -> list[tuple[object, ...]]:
    return [tuple(point.labels[axis] for axis in axes) for point in read_study(study(folder, text)).points]


@pytest.mark.parametrize(
    ("written", "gpus"),
    [
        ("4", [4]),
        ("[4, 2]", [4, 2]),
        ('"2..16"', [2, 4, 8, 16]),
        ('"3..10"', [3, 6, 10]),
        ("{from = 2, to = 9, step = 3}", [2, 5, 8]),
        ("{from = 2, to = 54, factor = 3}", [2, 6, 18, 54]),
    ],
)
def test_ranges(tmp_path: Path, written: str, gpus: list[int]) -> None:
    assert labels(tmp_path, GRID + f"gpus = {written}", "gpus") == [(n,) for n in gpus]


def test_decimal_steps_have_no_binary_digits(tmp_path: Path) -> None:
    text = GRID + "gpus = 2\nnic_rate = {from = 0.1, to = 0.5, step = 0.1}"
    assert [rate for (rate,) in labels(tmp_path, text, "nic_rate")] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_the_last_axis_varies_fastest_and_conditions_choose_points(tmp_path: Path) -> None:
    text = """
[[grid]]
strategy = ["des_all_reduce", "table_wise"]
gpus = "2..16"
cluster = [{name = "a", value = "one-switch_16"}, "lab/switch_8"]
model = "lr"
[[grid]]
strategy = "ps_sync"
gpus = [2, 16]
cluster = "one-switch_16"
model = "lr"
[[exclude]]
cluster = "lab/switch_8"
gpus = "16.."
[[exclude]]
cluster = "a"
strategy = ["table_wise", "ps_sync"]
gpus = "..4"
"""
    assert labels(tmp_path, text, "strategy", "gpus", "cluster") == [
        *(("des_all_reduce", n, c) for n in (2, 4, 8) for c in ("a", "lab/switch_8")),
        ("des_all_reduce", 16, "a"),
        *(("table_wise", n, "lab/switch_8") for n in (2, 4)),
        *(("table_wise", 8, c) for c in ("a", "lab/switch_8")),
        ("table_wise", 16, "a"),
        *(("ps_sync", n, "one-switch_16") for n in (2, 16)),
    ]
    where = text + '[[where]]\nstrategy = "ps_sync"\n'
    assert labels(tmp_path, where, "gpus") == [(2,), (16,)]


def test_a_case_is_known_by_its_content(tmp_path: Path) -> None:
    """Names of files and values do not count, and neither do options of servers where there are none."""
    text = list_topologies()["lab/switch_4"].read_text()
    for name, content in (("same", text), ("other", text.replace("GB/s", "GB/s").replace("count = 4", "count = 5"))):
        (tmp_path / f"{name}.toml").write_text(content)
    grid = """
[grid]
model = "lr"
cluster = ["lab/switch_4", "same.toml", "other.toml", {name = "again", value = "same.toml"}]
strategy = ["des_all_reduce", "ps_sync"]
gpus = 2
servers = [1, 2]
"""
    rows, cases = resolve(read_study(study(tmp_path, grid)))
    keys = {tuple(row.point.labels[axis] for axis in ("cluster", "strategy", "servers")): row.key for row in rows}
    assert len(rows) == 16 and len(cases) == 6
    assert keys["lab/switch_4", "des_all_reduce", 1] == keys["again", "des_all_reduce", 2]
    assert keys["same.toml", "ps_sync", 1] == keys["again", "ps_sync", 1] != keys["again", "ps_sync", 2]
    assert keys["other.toml", "des_all_reduce", 1] != keys["same.toml", "des_all_reduce", 1]


GPUS = GRID + "gpus = 2\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "grid: missing; write [grid] with model, cluster, strategy, gpus"),
        ("grid = 3", "write a table, [grid] or [[grid]]"),
        ("grids = 3", "grids: unknown key; did you mean grid? keys: schema_version"),
        (GPUS + "[what]", "what: unknown key"),
        ("schema_version = 2\n" + GPUS, "this dessim reads 1"),
        (GRID, "grid.gpus: missing"),
        ("cluster = 'one-switch_16'\n" + GPUS, "cluster: unknown key; cluster is an axis: put it under [grid]"),
        (GPUS + "[were]\ngpus = 2", "were: unknown key; did you mean where? keys: "),
        (GPUS + "gpu = 3", "grid.gpu: no such axis; did you mean gpus?"),
        (GRID + "gpus = 0", "grid.gpus: write a whole number of at least 1"),
        (GRID + "gpus = true", "grid.gpus: write a whole number"),
        (GRID + 'gpus = "8..4"', "write the smaller number first"),
        (GRID + 'gpus = "8..many"', "write a range such as '8..1024'"),
        (GRID + "gpus = []", "the list is empty"),
        (GRID + "gpus = [2, 2]", "2 is listed twice"),
        (GRID + "gpus = [[2]]", "a list inside a list"),
        (GRID + "gpus = {from = 2, to = 8}", "write {from = 8, to = 64, step = 8}"),
        (GRID + "gpus = {from = 8, to = 2, step = 1}", "from = 8 is more than to = 2"),
        (GRID + "gpus = {from = 2, to = 8, step = 0}", "step = 0: write a number above 0"),
        (GRID + "gpus = {from = 2, to = 8, factor = 1}", "write a factor above 1"),
        (GRID + "gpus = {from = 1, to = 1000000000, step = 1}", "at most 100,000"),
        (GRID + "gpus = {from = 2, to = 5, step = 1.5}", "write a whole number"),
        (GPUS + "batch = '64/node'", "write the samples of all GPUs"),
        (GPUS + "batch = 63", "batch = 63 is no multiple of gpus = 2"),
        (GPUS + "spill = 'yes'", "grid.spill: write true or false"),
        (GPUS + "network = 'air'", "write one of fluid, packet"),
        (GPUS + "nic_rate = 0", "grid.nic_rate: write a factor above 0"),
        (GPUS + "uplink_rate = 2", "one-switch_16 has none"),
        (GPUS + "what_if = '2x:nicrate'", "did you mean nic_rate?"),
        (GPUS + "network = 'packets'", "grid.network: did you mean packet? write one of fluid, packet"),
        (GPUS + "network = 'packet'", "--network packet needs a gloo transport, and not ideal"),
        (GPUS + "precision = {title = 'x', value = 'y'}", 'write {name = "...", value = ...}'),
        (GPUS + "precision = {from = 1, to = 2, step = 1}", "only axes of numbers have ranges"),
        (GPUS + "[[exclude]]\ngpu = 2", "exclude.0.gpu: no axis of the grid"),
        (GPUS + "[[exclude]]\ngpus = '4..x'", "write a range such as '8..64'"),
        (GPUS + "[[exclude]]\ngpus = 3", "exclude.0: matches no point of the grid"),
        (GPUS + "[[exclude]]\ngpus = 2", "no point is left"),
        (GPUS + "[[where]]", "where.0: has no key"),
        (GPUS.replace("one-switch_16", "one-switch"), "did you mean one-switch_16?"),
        (GPUS.replace('"lr"', '"lrr"'), "no such model file"),
        (GPUS.replace("des_all", "all"), "unknown strategy 'all_reduce'"),
        (GPUS + "codec = 'zip'", "zip"),
        (GPUS + "ids = 'none.toml'", "none.toml"),
        (GPUS + "algorithm = 'all_reduce=oak'", "no algorithm 'oak' for all_reduce"),
        (GPUS + "algorithm = 'ring'", "write OP=NAME"),
        (GPUS.replace("one-switch_16", "lab/switch_8") + "launch = 'graph'", "states no graph_launch"),
        (GPUS + "spill = true", "spill needs the bandwidth to the host's memory"),
        (GRID + "gpus = [2, 32, 64]", "too few for 32 ranks"),
        (GRID + "gpus = [2, 32, 64]", "1 more points have errors; [[exclude]] leaves points out"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(FileError) as error:
        resolve(read_study(study(tmp_path, text)))
    line = str(error.value)
    assert says in line and line.startswith(str(tmp_path / "study.toml")) and "\n" not in line


def test_too_many_points_are_refused_before_they_are_made(tmp_path: Path) -> None:
    wide = "{from = 1, to = 9000, step = 1}"
    with pytest.raises(FileError, match="81,000,000 points; at most 200,000"):
        read_study(study(tmp_path, GRID + f"gpus = {wide}\nbatch = {wide}"))


def test_the_page_names_every_axis() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "sweeps.md").read_text("utf-8")
    assert [name for name in AXES if f"`{name}`" not in page and name not in KNOBS] == []
