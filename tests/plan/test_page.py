"""The page and the figures of a plan: load and memory of each rank, plans, owners, the Pareto front."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from dessim.plan.prices import Prices
from dessim.plan.scales import PlanRequest, run_plan
from dessim.results.pages.plan import answer, plan_page
from dessim.results.pages.render import render, write_page
from dessim.results.plan_figure import plan_figures, ranks
from dessim.results.show_plan import chosen_scale, distinct_plans, plan_label, print_plan
from dessim.workload.scale import Job
from tests.plan.small import BATCH, TABLES, cluster, model_of
from tests.results.test_report import Page

NAMES = [f"t{number}" for number in range(len(TABLES))]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """As `dessim plan --json` prints it."""
    strategies = ("table_wise", "row_wise")
    request = PlanRequest(
        Job.of_model(model_of()),
        cluster(),
        [8, 16],
        BATCH,
        target=1e6,
        prices=Prices(schema_version=1, node="20 $/h", source="offer of 3 March"),
        strategies=strategies,
        by_table=True,
    )
    found = run_plan(request).to_json()
    found["scales"][0]["plans"].sort(key=lambda row: not row["tables"])  # a plan of tables first
    return json.loads(json.dumps({"cluster": "h100", "model": "small <b>", **found}))  # type: ignore[no-any-return]


def test_loads_of_ranks_add_up(result: dict[str, Any]) -> None:
    for scale in result["scales"]:
        loads = scale["by_rank"]
        assert all(len(loads[what]) == scale["gpus"] for what in ("compute_s", "sent_bytes", "memory_bytes"))
        assert sum(loads["sent_bytes"]) == pytest.approx(sum(loads["received_bytes"]), rel=1e-6)
        assert max(loads["memory_bytes"]) == pytest.approx(scale["extremes"]["memory_bytes"][1])
        assert max(loads["memory_bytes"]) < loads["capacity_bytes"] == 80e9


def test_the_fullest_rank_holds_the_largest_table() -> None:
    """By hand: 40 M rows of 64 floats, an accumulator and an index entry, and less than 1 GiB beside them."""
    strategies = ("table_wise",)
    request = PlanRequest(Job.of_model(model_of()), cluster(), [8], BATCH, strategies=strategies, by_table=True)
    (scale,) = run_plan(request).scales
    best = next(candidate for candidate in scale.plans.candidates if candidate.tables)
    assert scale.plans.best.tables == best.tables
    memory = scale.plans.by_rank.memory_bytes
    (owner,) = best.tables[0].ranks
    assert int(memory.argmax()) == owner
    rows = 40e6 * (64 * 4 + 4 + 24)
    assert rows < memory[owner] < rows + 2**30


def test_the_page_needs_no_other_file_and_names_every_table(result: dict[str, Any], tmp_path: Path) -> None:
    write_page(tmp_path / "plan.html", plan_page(result, NAMES, cluster(), [("command", "dessim plan")]))
    html = (tmp_path / "plan.html").read_text()
    page = Page(html)
    assert not {"link", "img", "iframe"} & set(page.tags) and page.tags.count("script") == 1
    links = [value for name, value in page.attributes if name in ("src", "href")]
    assert not [value for value in links if not value.startswith(("#", "data:text/csv;"))]
    for text in (
        *NAMES,
        "table-wise",
        "Pareto front",
        "memory (GiB)",
        "small <b>",
        "offer of 3 March",
        *answer(result),
    ):
        assert text in page.text, text
    best = chosen_scale(result)["plans"][0]
    assert any(", ".join(map(str, table["ranks"])) in page.text for table in best["tables"] if table["ranks"])
    assert "<b>" not in html


def test_a_page_without_tables_or_prices_leaves_them_out(result: dict[str, Any]) -> None:
    scale = {**result["scales"][0], "dollars_per_h": None, "watts": None, "refused": ["theirs.json: too large"]}
    scale["plans"] = [row for row in scale["plans"] if not row["tables"]]
    text = Page(render(plan_page({**result, "scales": [scale]}, NAMES, None, []))).text
    assert "trains all tables and names no owners" in text and "theirs.json: too large" in text
    assert "Numbers of GPUs" not in text and "Cost of a billion" not in text and "Energy" not in text


def test_the_answer_states_plan_speed_target_and_lead(result: dict[str, Any]) -> None:
    text = " ".join(answer(result))
    assert " on 8 GPUs trains " in text and "Fewest planned that reach 1 M samples/s: 8 GPUs" in text
    assert " faster than " in text and ", the best strategy for all tables." in text


def test_one_plan_of_each_set_of_strategies_is_shown(result: dict[str, Any]) -> None:
    row = {"tables": [1], "source": "", "codecs": "", "step_time_s": 1.0}
    names = ["4 table_wise, 2 row_wise", "2 row_wise, 9 row_all_to_all", "3 table_wise, 3 row_wise", "6 table_wise"]
    plans = [{**row, "strategy": name} for name in names]
    alone = {**row, "strategy": "table_wise", "tables": []}
    given = {**plans[2], "source": "theirs.json"}
    assert distinct_plans({"plans": [*plans, alone, given]}) == [plans[0], plans[1], plans[3], given]
    assert plan_label(plans[3]) == plan_label(alone) == "table-wise"
    shown = distinct_plans(result["scales"][0])
    assert shown[0] is result["scales"][0]["plans"][0] and len(shown) < len(result["scales"][0]["plans"])


def test_the_source_of_the_price_is_printed(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(result, NAMES, None)
    assert " $ at 20.00 $/h (offer of 3 March)" in capsys.readouterr().out


def test_figures_of_several_scales_are_the_front_and_the_ranks(result: dict[str, Any], tmp_path: Path) -> None:
    plan_figures(result["scales"], chosen_scale(result), tmp_path / "front.svg")
    names = ["front-ranks.csv", "front-ranks.svg", "front.csv", "front.svg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with (tmp_path / "front-ranks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(8)]
    assert [float(row["memory_bytes"]) for row in rows] == chosen_scale(result)["by_rank"]["memory_bytes"]


def test_the_figure_of_one_scale_is_that_of_the_ranks(result: dict[str, Any], tmp_path: Path) -> None:
    plan_figures(result["scales"][:1], result["scales"][0], tmp_path / "one.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.csv", "one.svg"]
    assert "memory (GiB)" in (tmp_path / "one.svg").read_text()


def test_a_thousand_ranks_are_drawn_by_load() -> None:
    load = [float(1 + rank % 7) for rank in range(1000)]
    loads = dict.fromkeys(("compute_s", "sent_bytes", "received_bytes", "memory_bytes"), load)
    drawn = ranks({**loads, "capacity_bytes": 10.0})
    assert "1,000 ranks, 512 shown, most loaded first" in drawn and "fullest 70 % of 10 B" in drawn
