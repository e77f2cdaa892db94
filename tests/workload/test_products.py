"""The products of matrices of planned ops: a part of their FLOPs, for every model under every strategy."""

from __future__ import annotations

import pytest

from dessim.workload.describe_model import strategies_for
from dessim.workload.model import load_model, shipped_models
from dessim.workload.plan import PlannedOp
from dessim.workload.strategies import plan


def product_flops(op: PlannedOp, symbols: dict[str, float]) -> float:
    sizes = ((p.m, p.n, p.k, p.count) for p in op.products)
    return sum(2.0 * m * n * k * count for m, n, k, count in ([s.evaluate(symbols) for s in size] for size in sizes))


@pytest.mark.parametrize("name", shipped_models())
def test_products_are_a_part_of_the_flops_of_their_op(name: str) -> None:
    model = load_model(name)
    for strategy in strategies_for(model):
        planned = plan(strategy, model)
        symbols = planned.symbols(model.symbols(8))
        for op in planned.ops:
            assert product_flops(op, symbols) <= op.flops.evaluate(symbols) * (1 + 1e-9), op.name


def test_nearly_all_flops_of_dlrms_dense_layers_are_products() -> None:
    for name in ("dlrm_dcnv2", "criteo_1tb", "xdeepfm"):
        model = load_model(name)
        planned = plan("table_wise", model)
        symbols = planned.symbols(model.symbols(8))
        for op in (planned.op("dense_forward"), planned.op("dense_backward")):
            assert 0.9 < product_flops(op, symbols) / op.flops.evaluate(symbols) <= 1


def test_the_backward_has_two_products_for_each_of_the_forward() -> None:
    """X W of M x K by K x N; dX = dY W' and dW = X' dY."""
    model = load_model("criteo_1tb")
    planned = plan("table_wise", model)
    symbols = planned.symbols(model.symbols(8))
    forward, backward = (planned.op(f"dense_{phase}").products for phase in ("forward", "backward"))
    sides = (forward, backward)
    sizes = [[tuple(size.evaluate(symbols) for size in (p.m, p.n, p.k)) for p in side] for side in sides]
    assert len(backward) == 2 * len(forward)
    assert sizes[0][1] == (6912, 256, 512)  # bottom mlp: 13, 512, 256, 128
    assert sizes[1][2:4] == [(6912, 512, 256), (512, 256, 6912)]
