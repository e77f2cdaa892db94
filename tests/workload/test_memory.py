"""The memory of a rank against counts by hand; spilled rows against closed forms and exact Zipf sums."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.errors import CapacityError
from dessim.workload.memory import Memory, memory_of, require, spill_of
from dessim.workload.model import Model, load_model, parse_model
from dessim.workload.strategies import STRATEGIES, plan

GB = 1e9


def model_of(skew: float = 1.05, vocabulary: float = 2e9, **embedding: int) -> Model:
    raw = {
        "schema_version": 1,
        "name": "big",
        "input": {"fields": 10, "ids_per_sample": 20, "vocabulary": vocabulary, "skew": skew},
        "embedding": {"width": 15, **embedding},
        "operators": [{"kind": "lr"}, {"kind": "mlp", "widths": [100, 50]}],
    }
    return parse_model(raw, "big.toml")


def test_rows_state_and_index_are_sharded_unless_data_parallel() -> None:
    # 16 floats a row, two accumulators (embedding and linear weight), 24 bytes of id and index.
    model = model_of()
    for name in STRATEGIES:
        memory = memory_of(plan(name, model), model.symbols(8))
        held = 2e9 / (1 if name == "data_parallel" else 8)
        assert memory.rows == held * 16 * 4
        assert memory.row_state == held * 2 * 4
        assert memory.index == held * 24
        parts = memory.rows + memory.row_state + memory.index + memory.dense + memory.activations
        assert memory.total == memory.spillable + memory.resident == pytest.approx(parts)


def test_other_optimizers_keep_other_state() -> None:
    model = model_of(optimizer_slots=32)  # Adam: two moments a float
    symbols = model.symbols(8)
    assert memory_of(plan("table_wise", model), symbols).row_state == 2e9 / 8 * 32 * 4
    plain = model_of(optimizer_slots=0)
    assert memory_of(plan("table_wise", plain), plain.symbols(8)).row_state == 0


def test_dense_weights_have_two_moments_on_every_worker_and_are_sharded_on_servers() -> None:
    model = model_of()
    # W1 100 x 150, W2 100 x 50, output 50, biases 100 + 50 + 1 of the output + 1 of the logit.
    weights = 100 * 150 + 100 * 50 + 50 + 100 + 50 + 2
    symbols = model.symbols(8)
    for name in STRATEGIES:
        own = math.ceil(weights / 8) if name.startswith("ps_") else weights
        assert memory_of(plan(name, model), symbols).dense == pytest.approx(3 * own * 4)


def test_activations_of_des_equal_a_count_by_hand() -> None:
    model, n, batch = model_of(), 4, 4096
    symbols = model.symbols(n, batch)
    ids, rows, pairs = batch * 20 / n, symbols["U"] / n, batch * symbols["q"]
    tail = 100 * 50 + 50 + 100 + 50 + 2  # P
    wire = 1 + 100
    by_hand = {
        "ids, sent and received": ids * 8 + ids * 12 + n * 8,
        "labels": batch * 4,
        "lookup": 4 * ids * 8 + rows * (8 + 16 * 4),
        "partials": pairs * 15 * 4 + batch * wire * 4,
        "tail": batch * 150 * 4,
        "its backward": (batch * wire + tail) * 4,
        "local backward": ids * 3 * 8 + rows * 16 * 4 + 100 * 150 * 4,
    }
    assert memory_of(plan("des_all_reduce", model), symbols).activations == pytest.approx(sum(by_hand.values()))


def test_few_samples_need_the_most_memory_in_the_dense_optimizer() -> None:
    """When Adam takes square roots, the activations of the 150 hidden units and the buffer of sums are free."""
    model = model_of()
    weights = 100 * 150 + 100 * 50 + 50 + 100 + 50 + 2
    for name in ("mesh", "table_wise"):
        planned = plan(name, model)
        before = replace(planned, ops=tuple(op for op in planned.ops if op.name != "update_dense"))
        for batch in (16, 4096):
            symbols = model.symbols(1, batch)
            buffer = weights * 4 if name == "table_wise" else 0
            more = max(0, weights * 4 - batch * 150 * 4 - buffer)
            most = memory_of(before, symbols).activations
            assert memory_of(planned, symbols).activations == pytest.approx(most + more), (name, batch)
            assert (more > 0) == (name == "mesh" and batch == 16)
        # Without a sample there are gradients, and the roots or the buffer.
        assert memory_of(planned, model.symbols(1, 0)).activations == pytest.approx(2 * weights * 4, rel=1e-3), name


def test_replicated_tails_grow_with_the_batch_and_sharded_ones_do_not() -> None:
    model = load_model("deepfm")
    small, large = (
        {name: memory_of(plan(name, model), model.symbols(n)).activations for name in STRATEGIES} for n in (8, 512)
    )
    assert large["des_all_reduce"] > 20 * small["des_all_reduce"] and large["mesh"] > 20 * small["mesh"]
    assert large["des_all_reduce"] > 2 * large["des_reduce_scatter"]
    for name in ("table_wise", "row_all_to_all", "ps_sync", "ps_async"):
        assert large[name] < 1.05 * small[name]


def test_a_job_that_does_not_fit_lists_its_memory_by_purpose() -> None:
    memory = Memory(rows=100 * GB, row_state=20 * GB, index=10 * GB, dense=1 * GB, activations=4 * GB)
    require(memory, 135 * GB, "gpu", what="job", symbols={"N": 8.0})
    with pytest.raises(CapacityError) as caught:
        require(memory, 80 * GB, "h100-sxm", what="table_wise of big on 8 GPUs", symbols={"N": 8.0})
    text = str(caught.value)
    assert text.startswith("table_wise of big on 8 GPUs does not fit: a GPU needs 125.7 GiB (rows 93.13 GiB, ")
    assert "their optimizer state 18.63 GiB, ids and index 9.313 GiB" in text and "activations 3.725 GiB" in text
    assert "h100-sxm has 74.51 GiB; use about 14 GPUs or more, " in text  # 8 * 130 / 75
    assert "--batch-per-worker" not in text and "--spill" in text and "\n" not in text
    require(memory, 80 * GB, "gpu", what="job", symbols={"N": 8.0}, spill=True)
    with pytest.raises(CapacityError, match=r"can spill only the rows") as caught:
        require(memory, 14 * GB, "gpu", what="job", symbols={"N": 8.0}, spill=True)
    assert "--spill" not in str(caught.value)
    assert "--batch-per-worker" in str(caught.value)  # index and dense weights alone take 11 of the 14
    with pytest.raises(CapacityError, match=r"; use GPUs with more memory$"):
        require(memory, 1 * GB, "gpu", what="job", symbols={"N": 8.0})


def test_what_fits_does_not_spill() -> None:
    model = model_of()
    p, symbols = plan("table_wise", model), model.symbols(8)
    memory = memory_of(p, symbols)
    assert spill_of(p, model, memory, symbols=symbols, capacity=memory.total, bandwidth=50e9) is None
    spill = spill_of(p, model, memory, symbols=symbols, capacity=memory.total - 1e6, bandwidth=50e9)
    assert spill is not None and spill.host_bytes == pytest.approx(1e6)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_uniform_ids_miss_in_proportion_to_spilled_rows(share: float) -> None:
    model = model_of(skew=0.0)
    symbols = model.symbols(8)
    for name in STRATEGIES:
        p = plan(name, model)
        memory = memory_of(p, symbols)
        spill = spill_of(
            p, model, memory, symbols=symbols, capacity=memory.total - share * memory.spillable, bandwidth=50e9
        )
        assert spill is not None
        assert spill.rows_share == pytest.approx(share)
        assert spill.reads_share == pytest.approx(share, rel=1e-6)
        # Reading moves 16 floats, updating 16 and 2 accumulators in each direction. An owner touches U/N distinct rows.
        read, updated = (symbols["u"], symbols["U"]) if name == "data_parallel" else (symbols["U"] / 8,) * 2
        assert spill.seconds == {
            "lookup": pytest.approx(share * read * 16 * 4 / 50e9, rel=1e-6),
            "update_rows": pytest.approx(share * updated * 18 * 4 / 50e9, rel=1e-6),
        }


@pytest.mark.parametrize("skew", [0.6, 1.05, 1.6])
def test_zipf_ids_miss_as_rarely_as_the_law_predicts(skew: float) -> None:
    vocabulary, share, n = 100_000, 0.7, 4
    model = model_of(skew=skew, vocabulary=vocabulary)
    symbols, p = model.symbols(n, 4096), plan("table_wise", model)
    memory = memory_of(p, symbols)
    spill = spill_of(
        p, model, memory, symbols=symbols, capacity=memory.total - share * memory.spillable, bandwidth=50e9
    )
    rows = vocabulary // 10  # of each of ten fields, which have two ids a sample
    weights = np.arange(1.0, rows + 1) ** -skew
    seen = -np.expm1(4096 * 2 * np.log1p(-weights / weights.sum()))
    assert spill is not None
    assert spill.reads_share == pytest.approx(seen[round(0.3 * rows) :].sum() / seen.sum(), rel=2e-3)
    assert spill.reads_share < share


@given(st.floats(0.01, 0.98), st.floats(0.0, 2.0), st.sampled_from(sorted(STRATEGIES)))
def test_more_rows_in_the_host_are_never_faster(share: float, skew: float, name: str) -> None:
    model = model_of(skew=skew)
    symbols, p = model.symbols(8), plan(name, model)
    memory = memory_of(p, symbols)
    less, more = (
        spill_of(p, model, memory, symbols=symbols, capacity=memory.total - x * memory.spillable, bandwidth=5e10)
        for x in (share, 0.99)
    )
    assert less is not None and more is not None
    assert less.reads_share <= more.reads_share <= 1 and less.reads_share <= share * (1 + 1e-6)
    assert all(less.seconds[op] <= more.seconds[op] for op in more.seconds)
