"""Every schedule computes its collective, and the checker would notice if it did not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from dessim.collectives import ALGORITHMS, Layout, Stage, algorithms_for, schedule
from dessim.collectives.schedule import check_schedule
from dessim.errors import UsageError
from dessim.trace.schema import Collective, sent_factor

SIZES = (*range(1, 18), 32, 64)
CASES = [
    (op, name, layout)
    for op, table in ALGORITHMS.items()
    for name in table
    for layout in (Layout(n, g) for n in SIZES for g in ((2, 3, 4, 8) if name == "hierarchical" else (1,)))
    if name != "hierarchical" or layout.is_hierarchical
]


@pytest.mark.parametrize(("op", "name", "layout"), CASES)
def test_schedule_computes_its_collective(op: Collective, name: str, layout: Layout) -> None:
    assert check_schedule(op, layout.n, schedule(op, name, layout, 1.0)) == []


@pytest.mark.parametrize(("op", "name", "layout"), CASES)
def test_bytes_sent_by_each_rank(op: Collective, name: str, layout: Layout) -> None:
    """One-level algorithms send what busbw assumes; two levels send the in-node share on top, over NVLink."""
    sent = [0.0] * layout.n
    for stage in schedule(op, name, layout, 1.0):
        for src, size in zip(stage.src.tolist(), stage.size.tolist(), strict=True):
            sent[src] += size * stage.repeat
    expected = sent_factor(op, layout.n)
    if name == "hierarchical":
        g, m = layout.per_node, layout.n // layout.per_node
        node, rail = (g - 1) / g, (m - 1) / m / (1 if op is Collective.ALL_TO_ALL else g)
        expected = (2 if op is Collective.ALL_REDUCE else 1) * (node + rail)
    assert sent == pytest.approx([expected] * layout.n, rel=1e-12)


def _mutants(stages: list[Stage]) -> Iterable[list[Stage]]:
    for i, stage in enumerate(stages):
        yield [*stages[:i], *stages[i + 1 :]]
        if stage.repeat > 1:
            yield [*stages[:i], replace(stage, repeat=stage.repeat - 1), *stages[i + 1 :]]
        yield [*stages[:i], replace(stage, dst=stage.dst[::-1].copy()), *stages[i + 1 :]]
        yield [*stages[:i], replace(stage, reduce=not stage.reduce), *stages[i + 1 :]]


@pytest.mark.parametrize(("op", "name", "layout"), [c for c in CASES if c[2].n in (5, 8)])
def test_checker_rejects_every_mutant(op: Collective, name: str, layout: Layout) -> None:
    stages = list(schedule(op, name, layout, 1.0))
    rejected = [check_schedule(op, layout.n, mutant) != [] for mutant in _mutants(stages)]
    # Adding to an empty buffer and storing are the same thing, so a flipped `reduce` may be harmless in a pure copy.
    copies = sum(1 for stage in stages if not stage.reduce)
    assert len(rejected) - sum(rejected) <= copies


def test_impossible_requests_name_the_way_out() -> None:
    with pytest.raises(UsageError, match="choose from auto, ring, hierarchical"):
        schedule(Collective.ALL_REDUCE, "butterfly", Layout(4), 1.0)
    with pytest.raises(UsageError, match="several whole nodes"):
        schedule(Collective.ALL_REDUCE, "hierarchical", Layout(4, 4), 1.0)
    with pytest.raises(UsageError, match="cannot be simulated yet"):
        schedule(Collective.BARRIER, "ring", Layout(4), 1.0)


def test_auto_leaves_out_what_does_not_fit() -> None:
    assert algorithms_for(Collective.ALL_REDUCE, Layout(8, 8)) == ("ring",)
    assert algorithms_for(Collective.ALL_TO_ALL, Layout(16, 8)) == ("pairwise", "direct", "hierarchical")
    assert algorithms_for(Collective.ALL_TO_ALL, Layout(16, 8), uneven=True) == ("pairwise", "direct")
    assert "direct" not in algorithms_for(Collective.ALL_TO_ALL, Layout(1024, 8))
