"""Pages of project and replay: complete, in agreement with --json, safe, reproducible; two runs compared."""

from __future__ import annotations

import base64
import copy
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app
from dessim.cluster import load_cluster
from dessim.errors import FileError
from dessim.results import figures
from dessim.results.pages.compare import differences_page
from dessim.results.pages.earlier import Earlier, load_earlier, steps_of
from dessim.results.pages.projection import projection_page
from dessim.results.pages.render import render
from dessim.results.pages.replay import replay_page
from dessim.results.pages.rows import rows_page
from dessim.results.svg import Plot
from dessim.results.tables import projection_csv
from dessim.units import format_size, format_time
from tests.results.test_report import HOSTILE, Page, poison

CLUSTER = "one-switch_16"
PROJECT = ["project", "--model", "fm", "--strategy", "table_wise,des_all_reduce", "--cluster", CLUSTER]
PROJECT += ["--gpus", "2,8", "--what-if", "2x:nic_rate"]


class Tables(Page):
    """Also keeps each table as rows of cells, by its label: text and sorting value."""

    def __init__(self, html: str) -> None:
        self.tables: dict[str, list[list[tuple[str, float | None]]]] = {}
        self._label, self._sort = "", None
        super().__init__(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        values = dict(attrs)
        if tag == "div" and values.get("role") == "group":
            self._label = values["aria-label"] or ""
        elif tag == "table":
            self.tables[self._label] = []
        elif tag == "tr":
            self.tables[self._label].append([])
        elif tag in ("td", "th"):
            sort = values.get("data-sort")
            self.tables[self._label][-1].append(("", None if sort is None else float(sort)))

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if {"td", "th"} & set(self.open):
            text, sort = self.tables[self._label][-1][-1]
            self.tables[self._label][-1][-1] = (text + data, sort)


def run(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def projected(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """A projection, its page, which compares it with an earlier one, and the file of that one."""
    folder = tmp_path_factory.mktemp("project")
    before = folder / "before.json"
    slower = [*PROJECT[:-4], "--gpus", "2,8", "--algorithm", "all_reduce=ring"]
    before.write_text(json.dumps(run(*slower)), encoding="utf-8")
    result = run(*PROJECT, "--html", str(folder / "p.html"), "--against", str(before))
    return result, (folder / "p.html").read_text("utf-8"), before


@pytest.fixture(scope="module")
def tables(projected: tuple[dict[str, Any], str, Path]) -> Tables:
    return Tables(projected[1])


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("throughput", "step_breakdown", "bytes_per_worker", "utilisation", "predicted_vs_measured"):
        monkeypatch.setattr(figures, name, lambda *_, **__: Plot("<svg></svg>", "figure", ""))


def test_the_page_states_question_and_answer_first(projected: tuple[dict[str, Any], str, Path], tables: Tables) -> None:
    command = (
        "dessim project --cluster one-switch_16 --strategy table_wise,des_all_reduce --gpus 2,8 --model fm "
        f"--what-if 2x:nic_rate --against {projected[2]}"
    )
    assert command in tables.text
    first, _, rest = projected[1].partition("</nav>")
    assert first.index("On one-switch_16: ") < first.index("dessim project")
    order = ["Simulated steps", "Change of each step", "Where the time goes", "Bottleneck of each step"]
    order += ["Gain of each change", "Memory of the fullest GPU", "Use of links", "Error bars", "Source of each"]
    places = [rest.index(text) for text in order]
    assert places == sorted(places)
    for text in ("fm: ", "16 GPUs", "samples a GPU", "samples a step on 8 GPUs"):
        assert text in tables.text, text


def test_numbers_are_those_of_json(projected: tuple[dict[str, Any], str, Path], tables: Tables) -> None:
    rows = projected[0]["projection"]
    ranked = sorted(rows, key=lambda row: (row["gpus"], -row["samples_per_s"]))
    head, *shown = tables.tables["Simulated steps"]
    assert [cell[0] for cell in head][:4] == ["GPUs", "strategy", "step", "samples/s"]
    keys = {2: "step_time_s", 3: "samples_per_s", 5: "compute_s", 6: "exposed_comm_s", 7: "idle_s"}
    keys |= {9: "bytes_per_worker", 10: "memory_bytes"}
    for row, cells in zip(ranked, shown, strict=True):
        assert cells[2][0] == format_time(row["step_time_s"]) and cells[10][0] == format_size(row["memory_bytes"])
        assert {column: cells[column][1] for column in keys} == {c: row[key] for c, key in keys.items()}
    memory = tables.tables["Memory of the fullest GPU"][1:]
    for row, cells in zip(ranked, memory, strict=True):
        assert sum(cell[1] for cell in cells[2:7]) == pytest.approx(row["memory_bytes"])  # type: ignore[misc]
    links = tables.tables["Mean use of links by layer"]
    for row, cells in zip(ranked, links[1:], strict=True):
        assert [cell[1] for cell in cells[2:]] == list(row["utilisation"]["mean_share"].values())
    best = ranked[-1] if ranked[-1]["samples_per_s"] > ranked[-2]["samples_per_s"] else ranked[-2]
    path = tables.tables["Critical path, projected"][1:]
    assert sum(cells[2][1] for cells in path) == pytest.approx(best["step_time_s"])  # type: ignore[misc]


def test_every_figure_has_its_data_and_all_rows_are_a_file(projected: tuple[dict[str, Any], str, Path]) -> None:
    result, html, _ = projected
    files = dict(re.findall(r'download="([^"]+)" href="data:text/csv;charset=utf-8;base64,([^"]+)"', html))
    content = {name: base64.b64decode(data).decode() for name, data in files.items()}
    assert content["projection.csv"] == projection_csv(result["projection"])
    assert html.count("<figure>") == len(content) - 1
    rows = list(csv.DictReader(io.StringIO(content["throughput-against-number-of-gpus.csv"])))
    assert [float(row["samples_per_s"]) for row in rows] == [row["samples_per_s"] for row in result["projection"]]


def test_the_policy_allows_the_pages_own_script_alone(projected: tuple[dict[str, Any], str, Path]) -> None:
    html = projected[1]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None and "default-src &#39;none&#39;" in policy[1]
    assert f"script-src &#39;sha256-{digest}&#39;" in policy[1]
    assert not re.search(r'(src|href)="(?!#|data:text/csv;)', html)


def test_ids_are_unique_and_links_within_the_page_have_targets(tables: Tables) -> None:
    ids = [value for name, value in tables.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {v[1:] for name, v in tables.attributes if name in ("href", "xlink:href") and v[0] == "#"} <= set(ids)


def test_the_same_result_gives_the_same_bytes(projected: tuple[dict[str, Any], str, Path], no_figures: None) -> None:
    first, second = (
        render(projection_page(copy.deepcopy(projected[0]), load_cluster(CLUSTER), [("command", "x")]))
        for _ in range(2)
    )
    assert first == second


def test_the_comparison_names_what_changed(projected: tuple[dict[str, Any], str, Path], tables: Tables) -> None:
    result, _, before = projected
    old = {(r["gpus"], r["strategy"]): r for r in json.loads(before.read_text())["projection"]}
    assert "Of 4 steps in both runs" in tables.text and "mostly in exposed communication" in tables.text
    shown = tables.tables["Steps in both runs"][1:]
    for row, cells in zip(result["projection"], shown, strict=True):
        earlier = old[row["gpus"], row["strategy"]]
        assert (cells[2][1], cells[3][1]) == (earlier["step_time_s"], row["step_time_s"])
        change = row["step_time_s"] / earlier["step_time_s"] - 1
        assert cells[4][1] == (pytest.approx(change) if abs(change) > 1e-9 else 0.0)
        parts = sum(cell[1] for cell in cells[5:8])  # type: ignore[misc]
        assert parts == pytest.approx(row["step_time_s"] - earlier["step_time_s"], abs=1e-9 * row["step_time_s"])


def _differences(name: str) -> dict[str, Any]:
    """As `dessim report --json` prints it."""
    case = {"strategy": name, "gpus": 8}
    slower = {"case": case, "before_s": 1e-3, "after_s": 2e-3, "change": 1.0, "mostly": name, "by_op_s": {name: 9e-4}}
    slower |= {"bound_by_before": "compute", "bound_by_after": name}
    status = {"case": case, "before": "ok", "after": name}
    changed = {"cluster": [name, "other"]}
    return {"slower": [slower], "faster": [], "same": 3, "status": [status], "only_before": [case]} | {
        "only_after": [],
        "changed": changed,
        "beyond": 0.01,
    }


def test_differences_of_two_sweeps_are_tables() -> None:
    tables = Tables(render(differences_page(_differences("table_wise"), "old", "new", [])))
    assert "Of 5 cases in both runs, 1 became slower and none faster by more than 1 %." in tables.text
    assert "The cluster differs: table_wise in old, other in new." in tables.text
    (cells,) = tables.tables["Slower cases"][1:]
    changes = ["1 ms", "2 ms", "+100 %", "table_wise, +900 us", "compute → table_wise"]
    assert [cell[0] for cell in cells] == ["table-wise", "8", *changes]
    assert "Only in old" in tables.tables and "Cases with another status" in tables.tables


def test_hostile_names_are_text(projected: tuple[dict[str, Any], str, Path], no_figures: None) -> None:
    bad = poison({**projected[0]})
    for row in bad["projection"]:
        row["does_not_fit"] = None
        row["critical_path"] = row["critical_path"][:1]
        row["utilisation"]["mean_share"] = {HOSTILE: 0.5}
        row["utilisation"]["peak_share"] = row["bytes_by_link"] = {HOSTILE: 1.0}
        row["comm_by_op"] = []
    cluster = replace(load_cluster(CLUSTER), name=HOSTILE, description=HOSTILE)
    earlier = Earlier(HOSTILE, {"model": HOSTILE, "cluster": "x"}, steps_of(bad)[:1])
    for page in (
        projection_page(bad, cluster, [("command", HOSTILE)], earlier),
        rows_page(HOSTILE, HOSTILE, [HOSTILE], asked=[(HOSTILE, HOSTILE)], rows=[{HOSTILE: HOSTILE}]),
        differences_page(_differences(HOSTILE), HOSTILE, HOSTILE, [("command", HOSTILE)]),
    ):
        html = render(page)
        assert html.count("<script") == 1 and HOSTILE in Page(html).text and ">49<" not in html


def test_a_replay_page_agrees_with_json(tmp_path: Path) -> None:
    from tests.test_cli import small_trace

    trace = small_trace(tmp_path)
    result = run("replay", str(trace), "--cluster", CLUSTER, "--html", str(tmp_path / "r.html"))
    tables = Tables((tmp_path / "r.html").read_text("utf-8"))
    shown = tables.tables["Predicted and measured steps"][1:]
    assert [cells[1][1] for cells in shown] == [
        result[f"{kind}_step_s"] for kind in ("measured", "recorded", "predicted")
    ]
    assert [cells[4][1] for cells in tables.tables["Collectives of a step"][1:]] == [
        op["time_s"] for op in result["comm_by_op"]
    ]
    assert f"dessim replay {trace} --cluster one-switch_16" in tables.text


def test_a_replay_of_a_trace_with_hostile_names_is_text(tmp_path: Path, no_figures: None) -> None:
    from tests.test_cli import small_trace

    bad = poison(run("replay", str(small_trace(tmp_path)), "--cluster", CLUSTER))
    bad["utilisation"] = {"share": {}, "mean_share": {}, "peak_share": {}, "time_s": []}
    html = render(replay_page(bad, HOSTILE, [], cluster=load_cluster(CLUSTER), asked=[("trace", HOSTILE)]))
    assert html.count("<script") == 1 and HOSTILE in Page(html).text


def test_rows_of_any_table_have_units_and_sort_by_value() -> None:
    rows = [
        {
            "strategy": "table_wise",
            "gpus": 8,
            "step_time_s": 0.0012,
            "busbw_GBps": 12.5,
            "error_bar": 0.2,
            "ok": None,
        },
        {"strategy": "x<b>", "gpus": 64, "step_time_s": 0.5, "busbw_GBps": 300.0, "error_bar": None, "ok": True},
    ]
    tables = Tables(render(rows_page("Sweep", "Which is fastest?", ["The first."], asked=[], rows=rows)))
    head, first, second = tables.tables["Rows"]
    assert [cell[0] for cell in head] == ["strategy", "GPUs", "step time", "busbw", "error bar (80 %)", "ok"]
    assert [cell[0] for cell in first] == ["table-wise", "8", "1.2 ms", "12.5 GB/s", "± 20 %", "–"]
    assert [cell[1] for cell in second] == [None, 64.0, 0.5, 300.0, None, None] and second[0][0] == "x<b>"
    assert "There are no rows." in Page(render(rows_page("Sweep", "Which?", ["None."], asked=[], rows=[]))).text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]", "is no result of dessim"),
        ("{", "not JSON"),
        ('{"schema_version": 1, "ok": true}', "holds no steps; compare with one of `dessim project --json`"),
        ('{"schema_version": 1, "predicted_step_s": 1}', "is a result of `dessim replay`"),
        ('{"schema_version": 1, "projection": [], "partial": true}', "is a partial result"),
        ('{"schema_version": 1, "projection": [{"gpus": 8}]}', "is damaged"),
        ('{"schema_version": 1, "projection": {"a": 1}}', "is damaged"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(FileError, match=re.escape(problem)):
        load_earlier(tmp_path / "a.json", "project")


@pytest.mark.parametrize("value", ['"<b>"', "-1.0", "1e999", "true", "null", "[]"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    row = f'{{"gpus": 8, "strategy": "mesh", "batch": 8, "step_time_s": {value}, "does_not_fit": null}}'
    (tmp_path / "a.json").write_text(f'{{"schema_version": 1, "projection": [{row}]}}')
    with pytest.raises(FileError, match=r"a\.json: is damaged"):
        load_earlier(tmp_path / "a.json", "project")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--against", "before.json"), 2, "add --html FILE"),
        (("--html", "."), 2, "is a folder; name a file"),
        (("--html", "a.html", "--csv", "a.html"), 2, "also writes"),
        (("--html", "a.html", "--against", "nowhere.json"), 1, "--against nowhere.json: no such file"),
    ],
)
def test_wrong_outputs_and_earlier_runs_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*PROJECT, *words])
    assert done.exit_code == code and said in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
