"""Options of strategies: hot rows, assignment of samples and the row cache, each against a straightforward count."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from des_ref.certify.case import Case
from des_ref.certify.group import certify, certify_all
from des_ref.certify.show import passed
from des_ref.comm import open_comm
from des_ref.data.batch import Batch
from des_ref.data.synthetic import Zipf
from des_ref.embedding.cached_rows import CachedRows, CacheMoves
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.lifetime import Lifetime
from des_ref.hashing import owner_of
from des_ref.models.build import Network
from des_ref.strategies import build
from des_ref.strategies.base import Optimizers
from des_ref.strategies.hot_rows import HotRows, hottest
from des_ref.strategies.sample_assignment import assign_samples, samples_of
from des_ref.train import main as train
from dessim.cluster import load_cluster
from dessim.errors import UsageError
from dessim.trace.check import check_trace
from dessim.trace.io import load_trace
from dessim.workload.model import load_model
from dessim.workload.scale import Job
from tests.projecting import project


def batch_of(samples: list[list[int]]) -> Batch:
    """A batch with one field and these ids; labels are places."""
    ids = torch.tensor([i for sample in samples for i in sample], dtype=torch.int64)
    sample = torch.tensor([s for s, own in enumerate(samples) for _ in own], dtype=torch.int64)
    return Batch(ids, sample, torch.zeros_like(ids), torch.arange(len(samples), dtype=torch.float32))


IDS = st.lists(st.lists(st.integers(-50, 50), min_size=1, max_size=6), min_size=1, max_size=20)


@given(IDS, IDS, st.integers(1, 30))
def test_the_hottest_ids_are_the_most_frequent(one: list[list[int]], other: list[list[int]], count: int) -> None:
    times = Counter(i for sample in (*one, *other) for i in sample)
    found = hottest([batch_of(one), batch_of(other)], count).tolist()
    assert found == sorted(sorted(times, key=lambda i: (-times[i], i))[:count])
    ids = torch.arange(-60, 60)
    places = HotRows(torch.tensor(found)).find(ids).tolist()
    assert places == [found.index(i) if i in found else -1 for i in ids.tolist()]


def test_without_batches_nothing_is_hot() -> None:
    none = HotRows(hottest([], 5))
    assert len(none) == 0 and none.find(torch.tensor([3, 4])).tolist() == [-1, -1]


def rows_fetched(whole: Batch, owner: Tensor, worker: Tensor) -> int:
    """Total over workers of the distinct rows that their samples need and they do not own."""
    worker_of_id = worker[whole.sample]
    triples = zip(worker_of_id.tolist(), whole.ids.tolist(), owner.tolist(), strict=True)
    return len({(w, i) for w, i, o in triples if o >= 0 and o != w})


def weight_at_home(whole: Batch, owner: Tensor, worker: Tensor) -> int:
    """Total over samples of the ids that their worker owns, each with 2^20 / (its occurrences in the batch)."""
    times = Counter(whole.ids.tolist())
    pairs = zip(whole.ids.tolist(), owner.tolist(), worker[whole.sample].tolist(), strict=True)
    return sum((1 << 20) // times[i] for i, o, w in pairs if o == w)


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=4, max_size=4), st.integers(0, 9))
@settings(deadline=None)
def test_two_workers_get_equal_numbers_of_samples_and_most_of_what_they_own(
    samples: list[list[int]], salt: int
) -> None:
    """Few rows are fetched as a consequence, not always the fewest: an id may be fetched once for several samples."""
    whole = batch_of(samples)
    owner = (whole.ids * 7 + salt) % 3 % 2
    worker = assign_samples(whole, owner, 2)
    assert torch.bincount(worker, minlength=2).tolist() == [2, 2]
    assignments = [torch.tensor(a) for a in product((0, 1), repeat=4) if sum(a) == 2]
    best = max(weight_at_home(whole, owner, assignment) for assignment in assignments)
    assert weight_at_home(whole, owner, worker) == best


@pytest.mark.parametrize("hot", [0, 400])
def test_assigned_samples_fetch_fewer_rows_than_consecutive_ones(hot: int) -> None:
    whole = Zipf(13, 1.0, 5e4, 1.05, 3).examples(512).take(torch.arange(512))
    owner = owner_of(whole.ids, 4)
    frequent = HotRows(hottest([whole], hot)).find(whole.ids) >= 0
    owner = owner.masked_fill(frequent, -1)
    consecutive = torch.arange(512) // 128
    ours = assign_samples(whole, owner, 4)
    assert torch.bincount(ours).tolist() == [128] * 4
    assert rows_fetched(whole, owner, ours) < 0.85 * rows_fetched(whole, owner, consecutive)


@given(IDS.filter(lambda samples: len(samples) % 2 == 0))
def test_the_assigned_shares_make_up_the_batch(samples: list[list[int]]) -> None:
    whole = batch_of(samples)
    worker = assign_samples(whole, owner_of(whole.ids, 2), 2)
    for rank in (0, 1):
        share = samples_of(whole, worker, rank)
        assert share.place is not None and share.place.tolist() == (worker == rank).nonzero()[:, 0].tolist()
        assert share.labels.tolist() == share.place.tolist()
        for own, place in enumerate(share.place.tolist()):
            assert share.ids[share.sample == own].tolist() == samples[place]


@given(st.sampled_from([1, 3, 4]), st.lists(st.lists(st.integers(0, 11), max_size=4, unique=True), max_size=30))
def test_the_cache_evicts_the_least_recently_used_rows_and_loses_no_update(
    capacity: int, steps: list[list[int]]
) -> None:
    """Also if it grows, and only where no slot is empty."""
    table = RowTable({"v": 2, "v_state": 1}, lambda ids: {"v": torch.zeros(len(ids), 2)})
    rows = table.find_or_insert(torch.arange(12))
    cache = CachedRows(table, capacity, torch.device("cpu"), grows=True)
    used: dict[int, int] = {}  # row -> step of last use, for the rows that must be cached
    truth = [0] * 12
    for step, ids in enumerate(steps):
        used_now = rows[torch.tensor(ids, dtype=torch.int64)]
        moves = cache.plan_moves(used_now)
        capacity = max(capacity, len(ids))
        assert moves.missing.tolist() == [r for r in used_now.tolist() if r not in used]
        assert len(moves.evicted) == max(len(used) + len(moves.missing) - capacity, 0)
        for r in moves.evicted.tolist():
            # The least recently used rows are evicted, and none of this step.
            assert r not in used_now.tolist() and all(used[r] <= used[o] for o in used if o not in used_now.tolist())
            del used[r]
        used |= dict.fromkeys(used_now.tolist(), step)
        cache.write_back(moves)
        cache.load(moves)
        slots = cache.slots(used_now)
        assert cache.columns["v"][slots][:, 0].tolist() == [truth[r] for r in used_now.tolist()]
        for name in ("v", "v_state"):
            cache.columns[name][slots] += 1
        for r in used_now.tolist():
            truth[r] += 1
    cache.flush()
    assert table.columns["v"][:, 1].tolist() == truth and table.columns["v_state"][:, 0].tolist() == truth


def test_a_step_that_needs_more_rows_than_the_cache_holds_is_refused() -> None:
    table = RowTable({"v": 1}, lambda ids: {"v": torch.zeros(len(ids), 1)})
    rows = table.find_or_insert(torch.arange(9))
    with pytest.raises(UsageError, match="a step needs 9 rows of one worker, and its cache holds 8: raise cache_rows"):
        CachedRows(table, 8, torch.device("cpu")).plan_moves(rows)


def test_unsupported_combinations_of_options_are_refused(tiny: Path) -> None:
    model = load_model(tiny)
    with open_comm("cpu") as comm:
        network = Network(model, 0, torch.float64, "cpu")
        with pytest.raises(UsageError, match="row_wise has no option 'hot_rows'"):
            build("row_wise+hot_rows=3", network, Optimizers(), comm)
        with pytest.raises(UsageError, match="leave out admit_after and expire_after"):
            build("row_all_gather+cache_rows=9", network, Optimizers(lifetime=Lifetime(2)), comm)


@pytest.mark.parametrize(
    "strategy", ["row_all_gather+cache_rows=200+shampoo", "row_all_to_all+hot_rows=9+look_ahead", "mesh+shampoo"]
)
def test_a_strategy_with_options_is_trained_recorded_and_projected(
    strategy: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "run.trace"
    arguments = [
        "--data",
        "synthetic",
        "--model",
        str(tiny),
        "--strategy",
        strategy,
        "--batch",
        "64",
        "--device",
        "cpu",
    ]
    steps = ["--epochs", "1", "--steps", "12", "--trace", str(trace), "--trace-steps", "2", "--trace-warmup", "2"]
    assert train([*arguments, *steps, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["strategy"] == strategy and summary["steps"] == 12 and summary["logloss"] > 0
    recorded = load_trace(trace)
    assert not check_trace(recorded) and recorded.header.strategy == strategy
    (row,) = project(Job.of_trace(recorded), load_cluster("h100-8x_rail_128"), [strategy], [16])
    assert row.strategy == strategy and row.breakdown.step_time_s > 0


def hot_rows_keep_their_own_gradient() -> None:
    """The AllReduce of hot rows' gradients runs, but its result is discarded, so replicas diverge."""
    from des_ref.strategies.row_all_to_all import RowAllToAll

    RowAllToAll._sum_hot = lambda self, grad: self.comm.all_reduce("hot_grad", grad.clone())  # type: ignore[method-assign]


def masks_are_not_reassigned() -> None:
    """Samples are assigned to workers, but their dropout masks are not."""
    from des_ref.strategies import row_all_to_all

    original = row_all_to_all.samples_of
    row_all_to_all.samples_of = lambda *which: dataclasses.replace(original(*which), place=None)  # type: ignore[assignment]


def rows_are_loaded_without_their_state() -> None:
    """A row loaded into the cache has its values, but its optimizer state is reset."""
    from des_ref.embedding.cached_rows import CachedRows

    original = CachedRows.load

    def load(self: CachedRows, moves: CacheMoves) -> None:
        original(self, moves)
        for name, values in self.columns.items():
            if name not in ("w", "v"):
                values[moves.slots] = 0

    CachedRows.load = load  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "sabotage"),
    [
        ("row_all_to_all+hot_rows=60", hot_rows_keep_their_own_gradient),
        ("row_all_to_all+look_ahead", masks_are_not_reassigned),
        ("row_all_gather+cache_rows=240", rows_are_loaded_without_their_state),
    ],
)
def test_the_certificate_fails_when_an_option_is_broken(
    strategy: str, sabotage: Callable[[], None], tiny: Path
) -> None:
    more_ids = tiny.with_name("more.toml")
    more_ids.write_text(tiny.read_text().replace("vocabulary = 200", "vocabulary = 900"))
    result = certify(Case(2, 5, str(more_ids), strategy, "cpu", sabotage=sabotage))
    assert not passed(result) and result["bytes_match"] and result["max_param_diff"] > 1e-9


@pytest.mark.slow
def test_the_certificate_passes_where_rows_are_evicted_and_reloaded(tiny: Path) -> None:
    more_ids = tiny.with_name("more.toml")
    more_ids.write_text(tiny.read_text().replace("vocabulary = 200", "vocabulary = 900"))
    cases = [
        Case(2, 5, str(more_ids), strategy, "cpu", pipeline=ahead, optimizer=optimizer)
        for strategy, ahead, optimizer in (
            ("row_all_gather+cache_rows=240", True, "adam"),
            ("row_all_gather+cache_rows=240", False, "rowwise_adagrad"),
            ("ps_sync+hot_rows=60", False, "ftrl"),
        )
    ]
    results = certify_all(cases)
    assert all(map(passed, results)), results
    for result in results[:2]:
        moved = {op["name"]: op["recorded_bytes"] for op in result["ops"]}
        assert 0 < moved["rows_out"] < moved["rows_in"]
