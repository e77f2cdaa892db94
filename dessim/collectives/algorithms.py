"""The table of algorithms: op and name to a generator of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dessim.collectives.alltoall import direct_all_to_all, pairwise_all_to_all
from dessim.collectives.hierarchical import (
    hierarchical_all_gather,
    hierarchical_all_reduce,
    hierarchical_all_to_all,
    hierarchical_reduce_scatter,
)
from dessim.collectives.ring import ring_all_gather, ring_all_reduce, ring_reduce_scatter
from dessim.collectives.schedule import Floats, Layout, Stage
from dessim.errors import UsageError
from dessim.trace.schema import Collective

Algorithm = Callable[..., Iterator[Stage]]

ALGORITHMS: dict[Collective, dict[str, Algorithm]] = {
    Collective.ALL_REDUCE: {"ring": ring_all_reduce, "hierarchical": hierarchical_all_reduce},
    Collective.REDUCE_SCATTER: {"ring": ring_reduce_scatter, "hierarchical": hierarchical_reduce_scatter},
    Collective.ALL_GATHER: {"ring": ring_all_gather, "hierarchical": hierarchical_all_gather},
    Collective.ALL_TO_ALL: {
        "pairwise": pairwise_all_to_all,
        "direct": direct_all_to_all,
        "hierarchical": hierarchical_all_to_all,
    },
}

# Beyond this many ranks `auto` does not try all pairs at once: n**2 messages.
DIRECT_LIMIT = 128


def algorithms_for(op: Collective, layout: Layout, uneven: bool = False) -> tuple[str, ...]:
    """Names of the algorithms that `auto` considers for this group, in table order."""
    names = []
    for name in _table(op):
        if name == "hierarchical" and (uneven or not layout.is_hierarchical):
            continue
        if name == "direct" and layout.n > DIRECT_LIMIT:
            continue
        names.append(name)
    return tuple(names)


def schedule(
    op: Collective, algorithm: str, layout: Layout, size: float, sizes: Floats | None = None
) -> Iterator[Stage]:
    """The stages of `op` on S = `size` bytes. Raises UsageError when the algorithm does not do this op or layout."""
    table = _table(op)
    if algorithm not in table:
        raise UsageError(f"no algorithm {algorithm!r} for {op}; choose from auto, {', '.join(table)}")
    if algorithm == "hierarchical" and not layout.is_hierarchical:
        raise UsageError(
            f"hierarchical {op} needs several whole nodes; {layout.n} ranks at {layout.per_node} a node are not"
        )
    if sizes is None:
        return table[algorithm](layout, size)
    if algorithm not in ("pairwise", "direct"):
        raise UsageError(f"{algorithm} cannot do an uneven all_to_all; choose pairwise or direct")
    return table[algorithm](layout, size, sizes)


def _table(op: Collective) -> dict[str, Algorithm]:
    if op not in ALGORITHMS:
        raise UsageError(f"{op} cannot be simulated yet; choose from {', '.join(ALGORITHMS)}")
    return ALGORITHMS[op]
