"""The certificate's program: its cases, how they run in one group, and how results are reported."""

from __future__ import annotations

import html
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from des_ref.certify import group, program
from des_ref.certify.case import Case, shrunk
from des_ref.certify.matrix import _pairs, every_case, pairwise, placements, poolings
from des_ref.certify.page import render
from des_ref.certify.scope import CHECKED, NOT_CHECKED, SHARED
from des_ref.certify.show import blind_spots, passed, summary, why
from des_ref.cli import run
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.strategies import STRATEGIES, VARIANTS
from dessim.workload.model import load_model, shipped_models

PASSED = {
    "case": "des_all_reduce, deepfm by hash, sgd, 2 ranks",
    "model": "deepfm",
    "placement": "hash",
    "pooling": None,
    "strategy": "des_all_reduce",
    "optimizer": "sgd",
    "ranks": 2,
    "equivalent": True,
    "max_loss_diff": 0.0,
    "max_grad_diff": 0.0,
    "max_param_diff": 3e-16,
    "bytes_match": True,
    "ops": [{"name": "labels", "recorded_bytes": 80, "formula_bytes": 80, "mismatches": 0, "formula": "B*c"}],
}
FAILED_CASE = PASSED | {"max_param_diff": 2e-12, "case": "the adam case"}
STALE = PASSED | {
    "strategy": "ps_async",
    "equivalent": False,
    "synchronous_param_diff": 0.04,
    "servers": 1,
    "staleness": {"bound": 4, "mean": 1.5, "max": 4, "missed_mean": 0.9, "missed_max": 3},
}


@cache
def all_cases(ranks: tuple[int, ...] = (1, 2, 4)) -> list[Case]:
    return every_case(ranks, 30, "cpu", pipeline=True, staleness=4)


def die_in_the_second_case() -> None:
    """Make rank 1 exit in the middle of adam's case."""
    right = group.compare

    def compare(case: Case, model: Any, comm: Any, **rest: Any) -> Any:
        if case.optimizer == "adam" and comm.rank == 1:
            os._exit(7)
        return right(case, model, comm, **rest)

    group.compare = compare  # type: ignore[assignment]


def test_all_covers_every_model_placement_strategy_optimizer_and_rank_count() -> None:
    cases = all_cases()
    found = [(c.ranks, c.model, c.pooling, c.placement, c.strategy, c.optimizer) for c in cases]
    assert len(set(found)) == len(found)
    expected = {
        (n, model, pooling, placement, strategy, optimizer)
        for model in shipped_models()
        for loaded in [load_model(model)]
        for pooling in poolings(model)
        for strategy in (*STRATEGIES, *VARIANTS)
        for placement in placements(loaded, strategy, pooling)
        for optimizer in ROW_OPTIMIZERS
        for n in (1, 2, 4)
    }
    assert set(found) == expected and all(c.small and c.steps == 30 for c in cases)
    assert {c.pooling for c in cases} == {None, "mean", "max", "attention"}


def test_only_correct_placements_are_offered() -> None:
    deepfm, pooled = load_model("deepfm"), load_model("deepfm_fields")
    assert placements(deepfm, "des_all_reduce") == ["hash", "field"]
    assert placements(pooled, "des_all_reduce") == ["field"]  # pooled-field FM is wrong by hash
    assert placements(deepfm, "table_wise") == ["hash"] and placements(pooled, "mesh") == ["field"]


def test_quick_covers_every_pair_of_choices_with_few_cases() -> None:
    cases = all_cases()
    few = pairwise(cases)
    pairs, covered = ({pair for c in some for pair in _pairs(c)} for some in (cases, few))
    assert covered == pairs and len(few) < len(cases) / 10
    # The cases are balanced: one rank, which tests little, does not dominate.
    assert all(sum(c.ranks == n for c in few) > len(few) / 5 for n in (1, 2, 4))
    assert all(sum(c.optimizer == o for c in few) > len(few) / 8 for o in ROW_OPTIMIZERS)


@pytest.mark.parametrize("name", shipped_models())
def test_a_small_model_has_the_same_operators(name: str) -> None:
    model = load_model(name)
    small = shrunk(model)
    assert small.kinds == model.kinds and small.embedding.placement == model.embedding.placement
    assert small.row_widths.keys() == model.row_widths.keys() and small.needs_operand == model.needs_operand
    assert small.symbols(2)["P"] < 2000


@pytest.mark.parametrize("key", ["max_loss_diff", "max_grad_diff", "max_param_diff"])
def test_loss_gradients_and_parameters_must_agree(key: str) -> None:
    """ps_async must agree with its replay. A codec may change all three, but not to NaN."""
    lossy = PASSED | {"codecs": "bf16", "equivalent": False, "lost": {}}
    assert passed(PASSED | {key: 1e-13}) and passed(STALE | {key: 1e-13}) and passed(lossy | {key: 0.1})
    for case in (PASSED | {key: 2e-12}, STALE | {key: 2e-12}, lossy | {key: sys.float_info.max}):
        assert not passed(case) and why(case)


def test_few_ranks_are_said_to_hide_faults() -> None:
    hidden = [blind_spots([PASSED | {"ranks": n} for n in ranks]) for ranks in ((1,), (1, 2), (1, 2, 4))]
    assert "no message" in hidden[0][0] and "at most 2 ranks" in hidden[1][0] and not hidden[2]


def test_ps_async_may_differ_from_synchronous_training_but_must_keep_its_bytes_and_its_bound() -> None:
    assert passed(STALE)
    assert not passed(STALE | {"bytes_match": False})
    assert not passed(STALE | {"staleness": STALE["staleness"] | {"max": 5}})
    found = summary([Case(2, 30, "deepfm", s) for s in ("des_all_reduce", "ps_async")], [PASSED, STALE], 1.0)
    assert found["ok"] and not found["equivalent"] and found["max_param_diff"] == 3e-16


@pytest.mark.slow
def test_a_new_group_continues_after_a_rank_has_died(tiny: Path) -> None:
    cases = [
        Case(2, 1, str(tiny), "mesh", "cpu", optimizer=o, small=True, sabotage=die_in_the_second_case)
        for o in ("sgd", "adam", "ftrl")
    ]
    first, second, third = group.certify_all(cases)
    assert passed(first) and passed(third) and third["optimizer"] == "ftrl"
    assert not passed(second) and "died" in second["error"] and "7" in second["error"]


@pytest.mark.slow
def test_a_case_gives_the_same_result_alone_and_in_a_group(tiny: Path) -> None:
    cases = [
        Case(2, 3, str(tiny), strategy, "cpu", optimizer=optimizer, small=True)
        for optimizer in ("adam", "sgd")
        for strategy in ("des_reduce_scatter", "mesh")
    ]
    together = group.certify_all(cases)
    assert all(map(passed, together))
    alone = group.certify(cases[2])
    assert {**together[2], "seconds": 0} == {**alone, "seconds": 0}


def test_a_failure_exits_with_3_and_names_the_cases(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(program, "certify_all", lambda cases: [PASSED, FAILED_CASE])
    page, out = tmp_path / "page.html", tmp_path / "out.json"
    assert run("des_ref.certify", lambda: program.main(["--json", "--html", str(page), "-o", str(out)])) == 3
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert json.loads(out.read_text()) == found
    assert not found["ok"] and (found["count"], found["red"]) == (2, 1) and found["max_param_diff"] == 2e-12
    assert "the certificate failed for the adam case; required: loss, gradients and" in captured.err
    assert "parameters differ by 2.00e-12" in page.read_text()


@pytest.mark.parametrize("arguments", [["--all", "--model", "fm"], ["--quick", "--model", "fm"], []])
def test_tables_show_what_failed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    too_large = PASSED["ops"][0] | {"recorded_bytes": 160, "mismatches": 2}
    monkeypatch.setattr(program, "certify_all", lambda _: [STALE, PASSED | {"bytes_match": False, "ops": [too_large]}])
    assert run("des_ref.certify", lambda: program.main(arguments)) == 3
    out = capsys.readouterr().out
    assert "DIFFER" in out and "FAILED" in out and "1.50 steps stale" in out
    assert not arguments or "labels moved 160 bytes, 80 planned" in out


def test_the_page_is_self_contained_and_escapes_names() -> None:
    results = [
        PASSED | {"model": "<script>alert(1)</script>"},
        STALE,
        FAILED_CASE,
        PASSED | {"error": "a rank died", "ranks": 4},
    ]
    page = render(summary([Case(2, 30, "deepfm", "mesh", small=True)] * 4, results, 60.0))
    assert "<script" not in page and "http" not in page.replace("http-equiv", "") and "a rank died" in page
    assert 'class="warn">3.0e-16' in page and 'class="bad">' in page and 'class="good">3.0e-16' in page


def test_the_page_says_what_is_checked_shared_and_not_checked() -> None:
    few, many = (summary([Case(2, 30, "deepfm", "mesh")], [PASSED | {"ranks": n}], 1.0) for n in (2, 4))
    page = render(few)
    headings = ["Checked", "Shared by both sides, so not compared", "Not checked"]
    assert [page.count(f"<h2>{heading}</h2>") for heading in headings] == [1, 1, 1]
    assert all(page.count(html.escape(line)) == 1 for line in (*CHECKED, *SHARED, *NOT_CHECKED))
    assert "At most 2 ranks" in page and "At most 2 ranks" not in render(many)
    assert "Green" not in page and '<span class="tag good">passed</span>' in page


def test_a_wrong_placement_is_refused_before_any_process_starts(capsys: pytest.CaptureFixture[str]) -> None:
    refused = ["--all", "--model", "deepfm_fields", "--placement", "hash"]
    assert run("des_ref.certify", lambda: program.main(refused)) == 2
    assert "no case has --model deepfm_fields, --placement hash" in capsys.readouterr().err
