"""Synchronous against asynchronous training: the study's trainer equals des_ref's references, its page its record."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
import torch

from des_ref.data.movielens import FIELDS, WHEEL, cache_folder, open_movielens
from des_ref.data.synthetic import Zipf
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.reference import Reference
from des_ref.strategies.base import Optimizers
from dessim.workload.model import parse_model
from tests.pages import assert_same_page

STUDY = "time_to_auc"
SEEDS = (3, 4)
SIZE = 16
DENSE = {"sgd": ("SGD", {"lr": 0.5}), "adagrad": ("Adagrad", {"lr": 0.1, "eps": 1e-10}), "adam": ("Adam", {"lr": 0.02})}


@pytest.fixture(scope="module")
def stale(folder):
    sys.path.insert(0, str(folder))
    import stale

    sys.path.remove(str(folder))
    return stale


@pytest.fixture(scope="module")
def source():
    return Zipf(fields=4, vocabulary=60.0, skew=0.9, seed=1).open(200)


@pytest.fixture(scope="module")
def data(stale, source):
    return stale.Data.of(source, SEEDS)


def trained_by_reference(source, seed, rows, dense, lags):
    """Parameters after an epoch in which update k has the gradient of `lags[k]` updates earlier, and the vocabulary."""
    raw = {
        "schema_version": 1,
        "name": "fm",
        "input": {"fields": 4, "ids_per_sample": 4, "batch_per_worker": SIZE, "vocabulary": 60, "skew": 0.9},
        "embedding": {"width": 16},
        "operators": [{"kind": "lr"}, {"kind": "fm"}],
    }
    ids = torch.unique(torch.cat([source.train.ids, source.validation.ids, source.test.ids]))
    network = Network(parse_model(raw, "fm.toml"), seed, torch.float64, "cpu")
    reference = Reference(network, Optimizers(rows, DenseOptimizer(*dense), init_std=0.01), ids)
    order = torch.from_numpy(np.random.default_rng((seed, 0)).permutation(len(source.train)))
    versions = []
    for k, lag in enumerate(lags):
        versions.append({name: p.clone() for name, p in reference.parameters.items()})
        batch = source.train.take(order[k * SIZE : (k + 1) * SIZE])
        reference.apply(batch, reference.gradients(batch, versions[k - lag], k, range(SIZE)).grads)
    return reference.parameters


@pytest.mark.parametrize("name", list(DENSE))
def test_stale_training_equals_the_references_of_the_certificate(stale, source, data, name):
    lags = [0, 1, 0, 2, 3, 1, 0, 4, 2, 2]
    rows = ROW_OPTIMIZERS[name](rate=DENSE[name][1]["lr"])
    model = stale.Model(data, rows, 16, torch.float64)
    stale.train(data, model, 1, SIZE, [lags])
    for s, seed in enumerate(SEEDS):
        expected = trained_by_reference(source, seed, rows, DENSE[name], lags)
        own = slice(s * len(data.ids), (s + 1) * len(data.ids))
        for column in ("w", "v"):
            assert torch.allclose(model.rows.columns[column][own], expected[column], rtol=1e-9, atol=1e-12)
        assert float(model.bias.columns["bias"][s]) == pytest.approx(float(expected["dense.0"]), rel=1e-9)


def test_workers_that_step_together_add_their_gradients(stale, data):
    together, alone = (stale.Model(data, ROW_OPTIMIZERS["sgd"](rate=rate), 16, torch.float64) for rate in (0.1, 0.4))
    scored = stale.train(data, together, 1, 4 * SIZE, workers=4, parts=(0.5,))
    stale.train(data, alone, 1, 4 * SIZE)
    assert torch.allclose(together.rows.columns["v"], alone.rows.columns["v"], rtol=1e-12)
    assert [point.epochs for point in scored] == [0.5, 1.0] and scored[-1].test != scored[0].test


@pytest.fixture(scope="module")
def times(folder):
    return json.loads((folder / "times.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def curves(folder):
    return list(csv.DictReader((folder / "curves.csv").read_text("utf-8").splitlines()))


def test_every_case_is_recorded_with_every_seed(study, curves):
    part = study["training"]
    cases = [
        (split, optimizer, f"{rate:g}", mode, str(workers), str(seed))
        for split in part["splits"]
        for optimizer, rates in part["rates"].items()
        for rate in rates
        for workers in part["workers"]
        for mode in ("sync", "async")
        for seed in part["seeds"]
    ]
    keys = ("split", "optimizer", "rate", "mode", "workers", "seed")
    assert [tuple(row[key] for key in keys) for row in curves] == cases and len(part["seeds"]) == 5


def test_page_and_tables_agree_with_the_record(folder, plot, tmp_path):
    assert plot.main(["--out", str(tmp_path)]) == 0
    for name in ("README.md", "claims.csv"):
        assert_same_page(tmp_path / name, folder / name)
    assert (tmp_path / "time_to_auc.svg").read_text("utf-8") == (folder / "time_to_auc.svg").read_text("utf-8")


def test_lags_are_those_of_workers_that_take_turns(times):
    """A gradient misses at most as many updates in the mean as there are other workers, and fewer where pulls queue."""
    for row in times["steps"]:
        assert 0.25 * row["workers"] < row["lag"]["mean"] <= row["workers"] - 1
        assert all(seconds > 0 for seconds in row["step_s"].values())


def test_users_of_the_time_split_are_mostly_new(times):
    if not (cache_folder() / WHEEL).is_file():
        pytest.skip("MovieLens-100K is not in the cache")
    test, train = (
        examples.ids[examples.field == FIELDS.index("user")]
        for source in [open_movielens(None, "time", 0)]
        for examples in (source.test, source.train)
    )
    assert float((~torch.isin(test, train)).float().mean()) == pytest.approx(times["unseen_users"]["time"], abs=1e-9)
    assert round(times["unseen_users"]["time"], 3) == 0.858


def test_a_verdict_needs_a_gap_beyond_its_interval(plot, study):
    import claims

    def verdict(gaps):
        ours = np.array(gaps) + 0.7
        return claims._gap(study, (0.1, ours), (0.1, np.full(5, 0.7)))["claim"]

    assert verdict([0.01, 0.011, 0.009, 0.01, 0.012]) == "holds"
    assert verdict([-0.01, -0.011, -0.009, -0.01, -0.012]) == "fails"
    assert verdict([0.01, -0.011, 0.009, -0.01, 0.002]) == "open"


def test_the_best_rate_is_chosen_on_validation_and_time_ends_both(plot):
    import claims

    validation = np.array([[[0.6, 0.7, 0.8]], [[0.7, 0.72, 0.73]]])
    curves = claims.Curves((0.1, 0.2), np.array([1.0, 2.0, 3.0]), validation, validation - 0.05)
    assert [curves.best()[0], curves.best(2.0)[0], curves.best(0.1)[0]] == [0.1, 0.2, 0.2]
    assert curves.best(2.0)[1] == pytest.approx([0.67])
    rate, epochs = curves.epochs_to(0.7)
    assert rate == 0.1 and epochs == pytest.approx([2.5]) and curves.epochs_to(0.76) is None


def test_the_answer_in_the_readme_agrees_with_the_findings(folder, expected, times):
    text = " ".join((folder / "README.md").read_text("utf-8").split())
    samples = [g for g in expected["claims"] if g["equal"] == "samples"]
    held = {(g["optimizer"], g["split"], g["workers"]): g["gap"] for g in samples if g["claim"] == "holds"}
    failed = {(g["optimizer"], g["split"], g["workers"]): g["gap"] for g in samples if g["claim"] == "fails"}
    on_random = [held.pop(("adam", "random", workers)) for workers in (4, 16)]
    assert set(held) == {(optimizer, split, 64) for optimizer in ("adagrad", "adam") for split in ("random", "time")}
    on_random.append(held["adam", "random", 64])
    assert "by 0.002 to 0.008 in AUC" in text and (round(min(on_random), 3), round(max(on_random), 3)) == (0.002, 0.008)
    assert "by 0.004 to 0.020" in text and (round(min(held.values()), 3), round(max(held.values()), 3)) == (
        0.004,
        0.020,
    )
    assert set(failed) == {("sgd", split, workers) for split in ("random", "time") for workers in (16, 64)}
    assert "by 0.004 to 0.007" in text and (max(failed.values()), min(failed.values())) == (-0.0036, -0.0069)
    assert "the other eight of 18 cases" in text and len(samples) - len(held) - 2 - len(failed) == 8
    in_time = [g for g in expected["claims"] if g["equal"] != "samples"]
    verdicts = [g["claim"] for g in in_time]
    assert "holds in 13 of 24 comparisons" in text and (verdicts.count("holds"), len(verdicts)) == (13, 24)
    fails = [(g["equal"], g["optimizer"], g["workers"]) for g in in_time if g["claim"] == "fails"]
    assert fails == [("des_all_reduce", "sgd", 16)] * 2
    steps = next(row["step_s"] for row in times["steps"] if row["workers"] == 16)
    shown = (1e3 * steps["des_all_reduce"], 1e3 * steps["ps_async"])
    assert "(60 against 46 ms)" in text and shown == pytest.approx((60, 46), abs=0.5)
