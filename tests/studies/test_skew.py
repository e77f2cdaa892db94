"""Savings of options by the skew of ids: in the table, shown in the README, and in a small recording."""

from __future__ import annotations

import io
import shutil

import pandas as pd
import pytest

from tests.forked import run_forked

STUDY = "skew"

# The shipped fm has rows of 16 floats and the linear weight.
WIDTH = 17
FLOAT = 4
ID = 8


@pytest.fixture(scope="module")
def rows(plot, study, folder):
    return plot.sorted_rows(study, pd.read_csv(folder / "skew.csv"))


def test_every_case_has_a_row_and_the_bytes_of_its_formula(plot, study, rows):
    names = [s["name"] for s in study["strategies"]]
    cases = [(skew, n, name) for skew in study["skews"] for n in study["workers"] for name in names]
    assert rows[list(plot.CASE)].apply(tuple, axis=1).tolist() == cases
    assert {0.8, 1.05, 1.3} <= set(study["skews"]) and (rows.mismatches == 0).all()


def test_recorded_bytes_follow_zipfs_law(rows):
    sent = rows[~rows.strategy.str.contains("look_ahead")]
    assert (abs(sent.expected_bytes / sent.sent_bytes - 1) < 0.02).all()
    look_ahead = rows[rows.strategy.str.contains("look_ahead")]
    assert (abs(look_ahead.expected_bytes / look_ahead.sent_bytes - 1) < 0.06).all()
    cached = rows[rows.strategy.str.contains("cache_rows")]
    assert (abs(cached.expected_copied_bytes / cached.copied_bytes - 1) < 0.03).all()


def test_bytes_of_rows_follow_the_closed_form_of_their_counts(study, rows):
    for case in rows[rows.strategy == "row_all_to_all"].itertuples():
        f = (case.workers - 1) / case.workers
        closed = f * case.worker_ids * (2 * WIDTH * FLOAT + ID)
        assert case.sent_bytes == pytest.approx(
            closed, rel=0.01
        )  # hashing leaves about 1 / N of the keys on their worker


def test_skew_helps_every_option_except_too_many_hot_rows(plot, study, rows):
    savings = {tuple(f[key] for key in plot.CASE): f["saved"] for f in plot.findings(study, rows)}
    for n in study["workers"]:
        for name in (s["name"] for s in study["strategies"]):
            saved = [savings[skew, n, name] for skew in study["skews"]]
            if "5000" in name:
                assert max(saved) < 0
            else:
                assert saved == sorted(saved) and saved[-1] > 0, name


def test_table_figure_and_expectation_agree_with_the_rows(plot, study, rows, folder, expected):
    assert plot.table(study, rows) in (folder / "README.md").read_text("utf-8")
    assert plot.draw(study, rows) == (folder / "skew.svg").read_text("utf-8")
    found = plot.findings(study, rows)
    assert plot.same(found, expected)
    found[3]["saved"] += 0.003
    assert not plot.same(found, expected)


def test_a_recording_on_two_ranks_follows_the_law(plot, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.run", run_forked)
    tiny = tmp_path / "study.toml"
    tiny.write_text(
        'schema_version = 1\nmodel = "fm"\nvocabulary = 20000\nskews = [1.05]\nworkers = [2]\nbatch_per_worker = 64\n'
        "warmup = 3\nsteps = 2\n"
        '[[strategies]]\nname = "row_all_to_all+hot_rows=50+look_ahead"\n'
        '[[strategies]]\nname = "row_all_gather+cache_rows=2500"\n'
    )
    look_ahead, cached = plot.compute(tiny)
    assert look_ahead["mismatches"] == cached["mismatches"] == 0 and look_ahead["copied_bytes"] == 0
    assert look_ahead["expected_bytes"] == pytest.approx(look_ahead["sent_bytes"], rel=0.05)
    assert cached["expected_bytes"] == pytest.approx(cached["sent_bytes"], rel=0.03)
    assert cached["expected_copied_bytes"] == pytest.approx(cached["copied_bytes"], rel=0.05) and cached["copied_bytes"]


def test_a_byte_that_deviates_from_the_plan_exits_3(plot, folder, tmp_path, monkeypatch, capsys, rows):
    for name in ("study.toml", "expected.json", "README.md"):
        shutil.copy(folder / name, tmp_path)
    wrong = rows.copy()
    wrong.loc[7, "mismatches"] = 1
    wrong.to_csv(tmp_path / "skew.csv", index=False)
    monkeypatch.setattr(plot, "HERE", tmp_path)
    assert plot.main(["--out", str(tmp_path)]) == 3
    printed = capsys.readouterr()
    assert "do **not** match their formulas in 1 of them" in printed.out
    assert rows.strategy[7] in printed.err
    assert len(pd.read_csv(io.StringIO((tmp_path / "skew.csv").read_text()))) == len(rows)
