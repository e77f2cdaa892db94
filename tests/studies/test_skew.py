"""What options save by the skew of ids: in the table, which the README shows, and in a recording made here."""

from __future__ import annotations

import io
import shutil

import pandas as pd
import pytest

STUDY = "skew"

FIELDS, WIDTH, FLOAT, ID = 39, 17, 4, 8  # of the shipped fm: one id a field, 16 floats and the linear weight


@pytest.fixture(scope="module")
def rows(plot, study, folder):
    return plot.sorted_rows(study, pd.read_csv(folder / "skew.csv"))


def test_every_case_is_there_and_of_its_formulas_bytes(plot, study, rows):
    names = [s["name"] for s in study["strategies"]]
    wanted = [(skew, n, name) for skew in study["skews"] for n in study["workers"] for name in names]
    assert rows[list(plot.CASE)].apply(tuple, axis=1).tolist() == wanted
    assert {0.8, 1.05, 1.3} <= set(study["skews"]) and (rows.mismatches == 0).all()


def test_recorded_is_what_zipfs_law_says(rows):
    sent = rows[~rows.strategy.str.contains("look_ahead")]
    assert (abs(sent.expected_bytes / sent.sent_bytes - 1) < 0.02).all()
    looked = rows[rows.strategy.str.contains("look_ahead")]
    assert (abs(looked.expected_bytes / looked.sent_bytes - 1) < 0.06).all()
    cached = rows[rows.strategy.str.contains("cache_rows")]
    assert (abs(cached.expected_copied_bytes / cached.copied_bytes - 1) < 0.03).all()


def test_what_rows_cost_is_the_closed_form_of_their_counts(study, rows):
    for case in rows[rows.strategy == "row_all_to_all"].itertuples():
        f = (case.workers - 1) / case.workers
        closed = f * case.worker_ids * (2 * WIDTH * FLOAT + ID)
        assert case.sent_bytes == pytest.approx(closed, rel=0.01)  # of hashed keys about 1 / N are a worker's own


def test_skew_helps_all_but_too_many_hot_rows(plot, study, rows):
    found = {tuple(f[key] for key in plot.CASE): f["saved"] for f in plot.findings(study, rows)}
    for n in study["workers"]:
        for name in (s["name"] for s in study["strategies"]):
            saved = [found[skew, n, name] for skew in study["skews"]]
            if "5000" in name:
                assert max(saved) < 0
            else:
                assert saved == sorted(saved) and saved[-1] > 0, name


def test_table_figure_and_expectation_are_of_the_same_rows(plot, study, rows, folder, expected):
    assert plot.table(study, rows) in (folder / "README.md").read_text("utf-8")
    assert plot.draw(study, rows) == (folder / "skew.svg").read_text("utf-8")
    found = plot.findings(study, rows)
    assert plot.same(found, expected)
    found[3]["saved"] += 0.003
    assert not plot.same(found, expected)


def test_it_records_on_two_ranks_what_the_law_says(plot, folder, tmp_path):
    tiny = tmp_path / "study.toml"
    tiny.write_text(
        'schema_version = 1\nmodel = "fm"\nvocabulary = 20000\nskews = [1.05]\nworkers = [2]\nbatch_per_worker = 64\n'
        "warmup = 3\nsteps = 2\n"
        '[[strategies]]\nname = "row_all_to_all+hot_rows=50+look_ahead"\n'
        '[[strategies]]\nname = "row_all_gather+cache_rows=2500"\n'
    )
    looked, cached = plot.compute(tiny)
    assert looked["mismatches"] == cached["mismatches"] == 0 and looked["copied_bytes"] == 0
    assert looked["expected_bytes"] == pytest.approx(looked["sent_bytes"], rel=0.05)
    assert cached["expected_bytes"] == pytest.approx(cached["sent_bytes"], rel=0.03)
    assert cached["expected_copied_bytes"] == pytest.approx(cached["copied_bytes"], rel=0.05) and cached["copied_bytes"]


def test_a_byte_that_is_not_planned_exits_3(plot, folder, tmp_path, monkeypatch, capsys, rows):
    for name in ("study.toml", "expected.json", "README.md"):
        shutil.copy(folder / name, tmp_path)
    wrong = rows.copy()
    wrong.loc[7, "mismatches"] = 1
    wrong.to_csv(tmp_path / "skew.csv", index=False)
    monkeypatch.setattr(plot, "HERE", tmp_path)
    assert plot.main(["--out", str(tmp_path)]) == 3
    said = capsys.readouterr()
    assert "do **not** match their formulas in 1 of them" in said.out
    assert rows.strategy[7] in said.err and len(pd.read_csv(io.StringIO((tmp_path / "skew.csv").read_text()))) == len(
        rows
    )
