"""`dessim sweep` and `dessim report` as their users see them."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from dessim.results.show_sweep import print_fastest
from dessim.sweep.tables import is_ok, read_results
from dessim.units import format_count
from tests.results.test_pages import Tables
from tests.sweep.small import write_study
from tests.test_cli import refused, run


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of 12 points, of which four do not fit, made on the command line."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "study.toml").write_text(
        """
[grid]
model = "deepfm"
cluster = ["dgx1-v100_16", {name = "slow", value = "h100-8x_rail_128"}]
strategy = ["des_all_reduce", "table_wise"]
gpus = "8..16"
batch = ["256/gpu", "8000000/gpu"]
[[exclude]]
batch = "8000000/gpu"
gpus = 16
"""
    )
    code, out, err = run("sweep", str(folder / "study.toml"), "-o", str(folder / "out"))
    assert code == 0 and err == "", (out, err)
    assert out.splitlines()[:2] == ["study: 12 points; to simulate: 12", "4 does not fit, 8 ok"]
    return folder


def test_a_misfit_is_a_result(swept: Path) -> None:
    rows = (swept / "out" / "results.csv").read_text().splitlines()
    misfits = [row for row in rows if ",does_not_fit," in row]
    assert len(misfits) == 4 and all("does not fit: a GPU needs" in row for row in misfits)


def test_the_fastest_points_are_printed(swept: Path) -> None:
    code, out, _ = run("sweep", str(swept / "study.toml"), "-o", str(swept / "out"))
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and out.splitlines()[2] == "fastest point of each cluster and number of GPUs:"
    assert lines[3] == ["cluster", "strategy", "GPUs", "step", "samples/s"]
    rows = [row for row in read_results(swept / "out")[1] if is_ok(row)]
    for line, (cluster, gpus) in zip(lines[5:], product(("dgx1-v100_16", "slow"), (8, 16)), strict=False):
        best = max(row["samples_per_s"] for row in rows if (row["cluster"], row["gpus"]) == (cluster, gpus))
        assert (line[0], line[-5]) == (cluster, str(gpus))
        assert " ".join(line[-2:]) == format_count(best)
    assert lines[9] == [str(swept / "out" / "results.csv")]


def test_only_the_first_of_many_fastest_points_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"model": "fm", "cluster": "c", "strategy": "ps_async", "step_time_s": 1.0, "samples_per_s": 8.0}
    bound = {**row, "gpus": 1, "samples_per_s": 9.0, "lower_bound": "true", "strategy": "mesh"}
    several = [{**row, "gpus": 2**n, "batch_per_gpu": n} for n in range(7)]
    print_fastest(["cluster", "gpus", "strategy", "batch_per_gpu"], [bound, *several])
    out = capsys.readouterr().out
    assert "GPUs, the first 5 of 7:" in out and len(out.splitlines()) == 8
    assert "samples a GPU" in out and "mesh" not in out


def test_tables_are_read_as_they_were_written(swept: Path) -> None:
    axes, rows, ops = read_results(swept / "out")
    assert axes == ["model", "cluster", "strategy", "gpus", "batch_per_gpu"]
    for row in filter(is_ok, rows):
        path = ops[tuple(row[axis] for axis in axes)]
        assert sum(path.values()) == pytest.approx(row["step_time_s"], rel=1e-9)
    assert {type(row["gpus"]) for row in rows} == {int} and {row["status"] for row in rows} == {"ok", "does_not_fit"}


def test_it_counts_before_it_runs_and_finds_nothing_left_afterwards(swept: Path, tmp_path: Path) -> None:
    study = str(swept / "study.toml")
    code, out, _ = run("sweep", study, "--dry-run", "-o", str(tmp_path / "none"))
    assert (code, out) == (0, "study: 12 points; to simulate: 12\n") and not (tmp_path / "none").exists()
    figure = ("--figure", str(tmp_path / "f.svg"), "--hue", "strategy", "--facet", "cluster", "--where")
    refused(2, "did you mean gpus?", "sweep", study, "-o", str(tmp_path / "none"), *figure[:-1], "--x", "gpu")
    refused(2, "write COLUMN=VALUE", "sweep", study, "-o", str(tmp_path / "none"), *figure, "gpu=8")
    without_facet = ("sweep", study, "-o", str(tmp_path / "none"), *figure[:4])
    refused(2, "several rows have one point, with batch_per_gpu = 256 and 8000000", *without_facet)
    refused(2, "several rows have one point, with cluster = ", *without_facet, "--where", "batch_per_gpu=256")
    code, out, _ = run("sweep", study, "-o", str(swept / "out"), "--json", *figure, "batch_per_gpu=256")
    found = json.loads(out)
    assert code == 0 and found["to_simulate"] == 0 and found["by_status"] == {"ok": 8, "does_not_fit": 4}
    assert found["files"][-1] == str(tmp_path / "f.svg")
    code, out, err = run("sweep", study, "-o", str(tmp_path / "empty"), "--merge")
    assert code == 1 and "12 cases have no result yet" in err


def test_an_interruption_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(plan, jobs, dask, progress, on_case):
        on_case("key", {})
        raise KeyboardInterrupt

    monkeypatch.setattr("dessim.sweep.run.run_sweep", interrupted)
    code, _, err = run("sweep", str(write_study(tmp_path)), "-o", str(tmp_path / "out"))
    assert code == 130 and err == "dessim: interrupted with 23 cases left; run the same command again to continue\n"


def test_a_budget_stops_it_and_it_goes_on(tmp_path: Path) -> None:
    study = str(write_study(tmp_path))
    code, _, err = run("sweep", study, "-o", str(tmp_path / "out"), "--time-budget", "1us")
    assert code == 1 and "run the same command again to continue" in err and len(err.splitlines()) == 1
    code, out, _ = run("sweep", study, "-o", str(tmp_path / "out"), "--dry-run")
    assert code == 0 and "to simulate: 23" in out


def test_figures_show_one_axis_against_another(swept: Path, tmp_path: Path) -> None:
    out, figure = str(swept / "out"), tmp_path / "f.svg"
    draw = ("sweep", out, "--figure", str(figure))
    code, _, err = run(*draw, "--hue", "strategy", "--facet", "cluster", "--y", "step_time_s")
    assert code == 0, err
    text = figure.read_text()
    assert "cluster = slow" in text and "DES AllReduce" in text
    assert len(figure.with_suffix(".csv").read_text().splitlines()) == 9
    first = figure.read_bytes()
    run(*draw, "--hue", "strategy", "--facet", "cluster", "--y", "step_time_s")
    assert figure.read_bytes() == first
    code, _, err = run(*draw, "--x", "strategy", "--hue", "gpus", "--where", "cluster=slow")
    assert code == 0, err
    refused(2, "several rows have one point, with strategy = ", *draw, "--hue", "cluster")
    refused(2, "did you mean samples_per_s?", *draw, "--y", "samples_per")
    refused(2, "the column has texts", *draw, "--y", "bound_by", "--hue", "strategy", "--facet", "cluster")
    refused(2, "no row has it", *draw, "--where", "gpus=7")
    refused(2, "write COLUMN=VALUE", *draw, "--where", "gpu=8")
    refused(2, "are for --figure", "sweep", out, "--hue", "gpus")


def test_a_report_names_op_and_cause(swept: Path, tmp_path: Path) -> None:
    """The second run has slower NICs and fewer points, of which one does not fit."""
    text = (swept / "study.toml").read_text().split("[[exclude]]")[0]
    text = text.replace('"8..16"', "16").replace("256/gpu", "250/gpu").replace("8000000", "256")
    (tmp_path / "slower.toml").write_text(text + 'what_if = "0.25x:nic_rate"\n')
    before, after = str(swept / "out"), str(tmp_path / "out")
    code, out, err = run("sweep", str(tmp_path / "slower.toml"), "-o", after)
    assert code == 0 and "8 ok" in out, err
    code, out, err = run("report", before, after, "--json", "--csv", str(tmp_path / "r.csv"))
    assert code == 0, err
    found = json.loads(out)
    assert [one["case"]["gpus"] for one in found["slower"]] == [16] * len(found["slower"])
    changes = [one["change"] for one in found["slower"]]
    assert len(changes) >= 3 and changes == sorted(changes, reverse=True) and found["faster"] == []
    for one in found["slower"]:
        assert one["by_op_s"][one["mostly"]] == max(one["by_op_s"].values()) > 0
        assert sum(one["by_op_s"].values()) == pytest.approx(one["after_s"] - one["before_s"], rel=1e-6)
    assert len(found["only_before"]) == 8 and len(found["only_after"]) == 4
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 1 + len(changes)
    code, out, _ = run("report", after, before)
    assert (
        code == 0 and f"faster: {len(changes)}" in out and f"4 cases compared: 0 slower, {len(changes)} faster" in out
    )
    code, out, _ = run("report", before, before)
    assert out == "12 cases compared: 0 slower, 0 faster, 12 the same, 0 with another status\n"


def test_a_report_of_projections_may_change_the_cluster(tmp_path: Path) -> None:
    for name in ("h100-8x_fattree_128", "h100-8x_fattree_128_4to1"):
        arguments = ("--model", "deepfm", "--strategy", "table_wise,des_all_reduce", "--cluster", name, "--gpus", "64")
        (tmp_path / f"{name[-4:]}.json").write_text(run("project", *arguments, "--json")[1])
    code, out, err = run("report", str(tmp_path / "_128.json"), str(tmp_path / "4to1.json"), "--beyond", "0.1 %")
    assert code == 0, err
    assert out.startswith("cluster: h100-8x_fattree_128 -> h100-8x_fattree_128_4to1")
    assert "slower: " in out and "2 cases compared" in out


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("cannot be read", ("sweep", "nowhere.toml")),
        ("is a folder; name a study file", ("sweep", ".")),
        ("--dask and --jobs", ("sweep", "STUDY", "--dask", "x", "--jobs", "2")),
        ("write I/N", ("sweep", "STUDY", "--shard", "0/3")),
        ("write I/N", ("sweep", "STUDY", "--shard", "a/3")),
        ("name a folder", ("sweep", "STUDY", "-o", "")),
        ("write the address of a scheduler", ("sweep", "STUDY", "-o", "OUT", "--dask", "nonsense://x:1")),
        ("write the address of a scheduler", ("sweep", "STUDY", "-o", "OUT", "--dask", "head")),
        ("no scheduler answers", ("sweep", "STUDY", "-o", "OUT", "--dask", "127.0.0.1:1")),
        ("has no results of a sweep", ("report", ".", ".")),
        ("is neither the folder of a sweep", ("report", "JSON", "JSON")),
        ("has no unit", ("report", "JSON", "JSON", "--beyond", "1")),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, arguments: tuple[str, ...]) -> None:
    named = {"STUDY": str(write_study(tmp_path)), "OUT": str(tmp_path / "out"), "JSON": str(tmp_path / "x.json")}
    (tmp_path / "x.json").write_text('{"projection": [{"gpus": 8}]}')
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*(named.get(word, word) for word in arguments))
    assert code in (1, 2) and text in err and len(err.strip().splitlines()) == 1, (code, out, err)


def test_the_page_of_a_sweep_ranks_all_points_and_shows_its_figure(swept: Path, tmp_path: Path) -> None:
    words = (
        "--figure",
        str(tmp_path / "f.svg"),
        "--hue",
        "strategy",
        "--facet",
        "cluster",
        "--where",
        "batch_per_gpu=256",
    )
    code, _, err = run("sweep", str(swept / "out"), "--html", str(tmp_path / "all.html"))
    assert code == 0, err
    tables = Tables((tmp_path / "all.html").read_text("utf-8"))
    rows = sorted((row for row in read_results(swept / "out")[1] if is_ok(row)), key=lambda row: -row["samples_per_s"])
    head, *shown = tables.tables["Rows"]
    speed = [cell[0] for cell in head].index("samples/s")
    assert [cells[speed][1] for cells in shown] == [row["samples_per_s"] for row in rows]
    assert (
        len(tables.tables["Points that do not fit, or failed"]) == 5
        and "12 points: 8 with times, 4 do not fit." in tables.text
    )
    code, out, err = run("sweep", str(swept / "out"), "--html", str(tmp_path / "some.html"), *words, "--json")
    assert code == 0, err
    assert json.loads(out)["files"] == [str(tmp_path / "f.svg"), str(tmp_path / "some.html")]
    html = (tmp_path / "some.html").read_text("utf-8")
    assert html.count("<figure>") == 1 and "samples-per-s-against-gpus.csv" in html


def test_the_page_of_a_report_has_every_difference(swept: Path, tmp_path: Path) -> None:
    out = str(swept / "out")
    code, printed, err = run("report", out, out, "--html", str(tmp_path / "r.html"))
    assert code == 0, err
    assert "none became slower and none faster by more than 1 %" in Tables((tmp_path / "r.html").read_text()).text
    assert "12 cases compared" in printed
