"""Training with codecs on real ranks: planned ops and bytes, equal replicas, and bounded encoding loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref.comm import CodedComm, Comm, Encoding, SumFeedingReplicas, SumScattered
from dessim.errors import UsageError
from dessim.workload.codecs import parse_codecs
from tests.des_ref.ranks import on_ranks

BATCH, STEPS = 24, 2
CASES = [
    ("des_all_reduce", "bf16"),
    ("des_all_reduce", "activations=fp6,dense=threshold:0.9:2"),
    ("des_all_reduce", "activations=top_k:0.4,dense=fp6"),
    ("des_all_reduce", "dense=pruning:0.8"),
    ("des_reduce_scatter", "fp16"),
    ("des_reduce_scatter", "fp6"),
    ("des_reduce_scatter", "activations=top_k:0.4,gradients=pruning:0.8,dense=threshold:0.9"),
    ("table_wise", "gradients=pruning:0.8"),
    ("table_wise", "fp6"),
    ("row_wise", "gradients=bf16,dense=threshold:0.9"),
    ("row_all_to_all", "fp6"),
    ("row_all_to_all", "gradients=pruning:0.7,dense=bf16"),
    ("row_all_gather", "fp6"),
    ("row_all_gather", "gradients=pruning:0.7,dense=bf16"),
    ("ps_sync", "fp16"),
    ("ps_sync", "gradients=fp6,dense=pruning:0.8"),
    ("ps_sync", "dense=threshold:0.9"),
    ("data_parallel", "gradients=pruning:0.8,dense=fp6"),
]


def train(comm: Comm, strategy_name: str, codes: str) -> dict[str, Any]:
    """Record a few steps: differences from the plan, losses, and whether all workers have the same weights."""
    from des_ref.certify.audit import Audit
    from des_ref.data.batch import slice_of
    from des_ref.data.synthetic import Zipf
    from des_ref.models.build import Network
    from des_ref.strategies import build
    from des_ref.strategies.base import Optimizers
    from des_ref.tracing.planned import PlannedRecorder
    from dessim.workload.model import load_model

    model = load_model("deepfm_ml100k")
    network = Network(model, 1, torch.float64, "cpu")
    encoding = Encoding(parse_codecs(codes), seed=5, measure_loss=True)
    strategy = build(strategy_name, network, Optimizers(init_std=0.1), comm, encoding=encoding)
    strategy.marks = recorder = PlannedRecorder(comm, strategy.plan)
    symbols = strategy.plan.symbols(model.symbols(comm.world_size, BATCH) | {"s": 8.0})
    audit, data = Audit(strategy.plan, symbols), Zipf(model.input.fields, 1.7, 300, 1.05, 3)
    unplanned: set[str] = set()
    losses = []
    for i in range(STEPS):
        whole = data.examples(BATCH, i).take(torch.arange(BATCH))
        with recorder.step(i, costs=False):
            result = strategy.step(slice_of(whole, comm.rank, comm.world_size))
        ops = recorder.take_planned(strategy.op_vars(result.counts, BATCH))
        audit.add_step(ops)
        unplanned |= {op.name for op in ops} ^ {op.name for op in strategy.plan.ops}
        losses.append(float(result.loss))
    strategy.settle()
    weights = torch.cat([p.detach().reshape(-1) for p in network.dense_parameters])
    everyones = weights.new_empty(comm.world_size, len(weights))
    comm.all_gather("test", everyones.view(-1), weights).wait()
    channels = strategy.comm.channels if isinstance(strategy.comm, CodedComm) else {}
    return {
        "unplanned": sorted(unplanned),
        "mismatches": [op for op in audit.gather(comm) if op["mismatches"]],
        "equal": bool((everyones == everyones[0]).all()),
        "losses": losses,
        "lost": {name: (c.lost / c.energy) ** 0.5 for name, c in channels.items()},
    }


def train_all(comm: Comm) -> list[dict[str, Any]]:
    return [train(comm, *case) for case in CASES] + [train(comm, name, "fp32") for name in PLAIN]


PLAIN = sorted({strategy for strategy, _ in CASES})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs on three ranks, which do not divide the number of weights."""
    first = on_ranks(3, tmp_path_factory.mktemp("coded"), train_all)[0]
    return dict(zip([*CASES, *((name, "fp32") for name in PLAIN)], first, strict=True))


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_recorded_ops_and_bytes_equal_the_plan(trained, case):
    assert trained[case]["mismatches"] == [] and trained[case]["unplanned"] == []


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_replicas_remain_bit_identical(trained, case):
    assert trained[case]["equal"]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_encoding_loss_is_bounded_and_training_continues(trained, case):
    bounds = {"bf16": 2**-8, "fp16": 2**-11, "fp6": 0.26, "top_k": 1.0, "threshold": 1.01}
    forms = {str(b): f.name for b, f in parse_codecs(case[1]).by_buffer.items()}
    plain = trained[case[0], "fp32"]
    assert trained[case]["losses"] != plain["losses"]
    for ours, theirs in zip(trained[case]["losses"], plain["losses"], strict=True):
        # With 24 samples the noise that pruning adds to gradients is large; it is unbiased only on average.
        assert ours == pytest.approx(theirs, rel=0.5 if "pruning" in case[1] else 0.1)
    for name, lost in trained[case]["lost"].items():
        kind = "dense" if name.endswith(("shared_grad", "tail_grad", "dense_grad", "push_dense")) else None
        kind = kind or ("gradients" if "grad" in name or name.startswith("push") else "activations")
        assert 0 <= lost < bounds.get(forms[kind], 10)


def top_k_gradients(comm: Comm) -> list[float]:
    """Differences between the gradients of this worker's summands and finite differences of the encoded sums."""
    from dessim.workload.model import load_model
    from dessim.workload.strategies import plan

    model, found = load_model("deepfm_ml100k"), []
    encoding = Encoding(parse_codecs("activations=top_k:0.3"))
    width = 1 + 17 + 64  # lr and fm, which travel uncompressed, and the mlp
    for name in ("des_all_reduce", "des_reduce_scatter"):
        coded = encoding.around(comm, plan(name, model), model, torch.float64)
        draw = torch.Generator().manual_seed(comm.rank)
        ours = torch.randn(6, width, generator=draw, dtype=torch.float64).requires_grad_()
        direction = torch.randn(6, width, generator=draw, dtype=torch.float64)
        weight = torch.randn(6, width, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

        def total(
            partials: torch.Tensor, coded: CodedComm = coded, name: str = name, weight: torch.Tensor = weight
        ) -> torch.Tensor:
            """The sum over samples of weight * T; under ReduceScatter, this worker's share of it."""
            if name == "des_all_reduce":
                return (SumFeedingReplicas.apply(partials, coded, "partials") * weight).sum()
            own = SumScattered.apply(partials, coded, "partials", "partials_grad")
            return (own * weight.view(comm.world_size, -1, width)[comm.rank]).sum()

        total(ours).backward()
        expected = (ours.grad * direction).sum()
        values = torch.stack([total((ours + step * direction).detach()) for step in (1e-6, -1e-6)])
        if name == "des_reduce_scatter":
            comm.all_reduce("test", values).wait()
        # All workers move at once, so the difference is the sum of all workers' parts.
        comm.all_reduce("test", expected).wait()
        found.append(abs(float((values[0] - values[1]) / 2e-6 - expected)))
    return found


def test_the_gradient_of_a_top_k_sum_is_that_of_the_computed_function(tmp_path: Path):
    for found in on_ranks(2, tmp_path, top_k_gradients):
        assert max(found) < 1e-6


def test_ps_async_refuses_codecs(tiny):
    from types import SimpleNamespace

    from dessim.workload.model import load_model
    from dessim.workload.strategies import plan

    comm: Any = SimpleNamespace(wire=object())
    model = load_model(tiny)
    with pytest.raises(UsageError, match="ps_async sends values to servers unencoded"):
        Encoding(parse_codecs("bf16")).around(comm, plan("ps_async", model), model, torch.float32)
