"""Recorded bytes equal the formula: in the study's table, shown in its README, and in a small recording."""

from __future__ import annotations

import io
import itertools
import shutil

import pandas as pd
import pytest

from tests.forked import run_forked

STUDY = "bytes"

# F, D, H1 and s of the shipped Criteo models.
FIELDS = 39
WIDTH = 16
FIRST_LAYER = 400
FLOAT = 4


@pytest.fixture(scope="module")
def rows(folder):
    return pd.read_csv(folder / "bytes.csv")


def test_every_case_has_a_row_and_the_bytes_of_its_plan(plot, study, rows):
    axes = study["ids_per_field"], study["models"], study["workers"], study["strategies"]
    assert rows[list(plot.CASE)].apply(tuple, axis=1).tolist() == list(itertools.product(*axes))
    assert (rows.recorded_bytes == rows.formula_bytes).all() and (rows.mismatches == 0).all()
    assert (rows.recorded_bytes > rows.dense_bytes).all()


def test_embeddings_and_a_first_layer_add_the_bytes_of_the_closed_form(study, rows):
    sent = rows.set_index(["ids", "workers", "model", "strategy"]).recorded_bytes.sort_index()
    for ids in study["ids_per_field"]:
        for n in study["workers"]:
            by_case = sent[ids, n]
            f = (n - 1) / n
            batch = n * study["batch_per_worker"]
            extra = by_case["fm"] - by_case["lr"]  # the same ids, and D more floats per row
            for des in ("des_all_reduce", "des_reduce_scatter"):
                assert extra[des] == pytest.approx(2 * f * batch * (WIDTH + 1) * FLOAT, abs=1)
            for pooled in ("mesh", "row_wise"):  # D more per row, and a bag's sum of squares, which FM needs
                assert extra[pooled] == pytest.approx(2 * f * batch * FIELDS * (WIDTH + 1) * FLOAT, abs=1)
            # Rows: 2 u D s with a dedicated server; a worker that is also a server sends the share f of that.
            assert extra["ps_sync"] == pytest.approx(f * extra["ps_async"], abs=1)
            deep = by_case["wide_deep"] - by_case["lr"]
            partials = batch * FIRST_LAYER  # floats of h
            shared = FIRST_LAYER * FIELDS * WIDTH  # floats of dW1
            assert deep["des_all_reduce"] == pytest.approx(2 * f * (partials + shared) * FLOAT, abs=1)


def test_a_recording_on_two_ranks_matches_the_plan(plot, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.run", run_forked)
    tiny = tmp_path / "study.toml"
    tiny.write_text(
        'schema_version = 1\nmodels = ["lr", "deepfm"]\nstrategies = ["des_all_reduce", "ps_sync"]\nworkers = [2]\n'
        'batch_per_worker = 16\nsteps = 1\nsmaller_batch = { deepfm = 8 }\nids_per_field = { "multi-hot" = 3 }\n'
    )
    rows = plot.compute(tiny, tmp_path)
    assert [(r["model"], r["strategy"]) for r in rows] == [
        (m, s) for m in ("lr", "deepfm") for s in ("des_all_reduce", "ps_sync")
    ]
    assert [r["batch_per_worker"] for r in rows] == [16, 16, 8, 8]
    assert all(r["mismatches"] == 0 and r["recorded_bytes"] == r["formula_bytes"] > 0 for r in rows)
    # A rank sends half of its ids (16 samples, 39 fields, 3 ids on average, 12 bytes each) and 2 f B K s of partials.
    assert 0.8 < rows[0]["recorded_bytes"] / (0.5 * 16 * 39 * 3 * 12 + 2 * 0.5 * 32 * 4) < 1.3
    assert rows[2]["dense_bytes"] == 2 * 0.5 * FIRST_LAYER * FIELDS * WIDTH * FLOAT


def test_the_answer_in_the_readme_agrees_with_the_findings(plot, study, folder, expected):
    claim = study["claim"]["saved"]
    text = (folder / "README.md").read_text("utf-8")
    cases = {des: [f for f in expected if f["saved"][des] >= claim] for des in plot.DES}
    by_model = {m: [f["workers"] for f in cases["des_all_reduce"] if f["model"] == m] for m in study["models"]}
    assert len(expected) == 78 and len(cases["des_all_reduce"]) == 33 and "in 33 of 78 cases" in text
    assert [f["model"] for f in cases["des_reduce_scatter"]] == ["fm"] * 5 and "only for FM (5 of 78)" in text
    assert {m: len(at) for m, at in by_model.items() if len(at) > 4} == {"fm": 5, "nfm": 6, "dcn_v2": 5, "xdeepfm": 6}
    assert all(set(by_model[m]) <= {2, 4} and by_model[m] for m in ("dcn_v2_low_rank", "dlrm", "pnn", "deepfm_fields"))
    lr = [f["saved"]["des_all_reduce"] for f in expected if f["model"] == "lr"]
    assert (round(min(lr), 3), round(max(lr), 3)) == (0.175, 0.344) and "LR (17 to 34 %)" in text
    wide = [f["saved"]["des_all_reduce"] for f in expected if f["model"] in ("wide_deep", "deepfm", "dcn")]
    assert 0.63 <= max(wide) < 0.635 and "(at best 63 %)" in text


def test_table_figure_and_expectation_agree_with_the_rows(plot, study, rows, folder, expected):
    text = (folder / "README.md").read_text("utf-8")
    assert plot.table(study, rows) in text and plot.formulas(study) in text
    assert plot.draw(study, rows) == (folder / "bytes.svg").read_text("utf-8")
    assert plot.same(plot.findings(rows), expected)
    expected[5]["saved"]["des_all_reduce"] += 0.002
    assert not plot.same(plot.findings(rows), expected)


@pytest.mark.parametrize("column", ["recorded_bytes", "mismatches"])
def test_a_byte_that_deviates_from_the_plan_exits_3(plot, folder, tmp_path, monkeypatch, capsys, rows, column):
    for name in ("study.toml", "expected.json", "README.md"):
        shutil.copy(folder / name, tmp_path)
    wrong = rows.copy()
    wrong.loc[7, column] += 1
    wrong.to_csv(tmp_path / "bytes.csv", index=False)
    monkeypatch.setattr(plot, "HERE", tmp_path)
    monkeypatch.setattr(plot, "draw", lambda study, rows: "<svg/>")  # it takes seconds, and the test above compares it
    assert plot.main(["--out", str(tmp_path)]) == 3
    printed = capsys.readouterr()
    assert "**not** the formula's in 1 of them" in printed.out
    assert f" {rows.strategy[7]} " in printed.err
    assert len(plot.deviating(pd.read_csv(io.StringIO((tmp_path / "bytes.csv").read_text())))) == 1
