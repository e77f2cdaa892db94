"""The table of algorithms: for each op and name, a generator of stages and the layouts that it supports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from dessim.arrays import Floats
from dessim.collectives.alltoall import direct_all_to_all, pairwise_all_to_all
from dessim.collectives.bruck import bruck_all_gather, bruck_all_to_all
from dessim.collectives.channels import channel_all_gather, channel_all_reduce, channel_reduce_scatter
from dessim.collectives.composed import reduce_scatter_gather_reduce, scatter_all_gather_broadcast
from dessim.collectives.gloo import (
    gloo_all_gather,
    gloo_all_reduce,
    gloo_all_to_all,
    gloo_broadcast,
    gloo_reduce_scatter,
)
from dessim.collectives.halving_doubling import (
    halving_doubling_all_gather,
    halving_doubling_all_reduce,
    halving_doubling_reduce_scatter,
    recursive_doubling_all_reduce,
)
from dessim.collectives.hierarchical import (
    hierarchical_all_gather,
    hierarchical_all_reduce,
    hierarchical_all_to_all,
    hierarchical_reduce_scatter,
)
from dessim.collectives.in_switch import (
    nvls_all_gather,
    nvls_all_reduce,
    nvls_reduce_scatter,
    nvls_sharp_all_reduce,
    sharp_all_reduce,
)
from dessim.collectives.pipeline import CHUNK_COUNTS
from dessim.collectives.point_to_point import shift_send_recv
from dessim.collectives.ring import ring_all_gather, ring_all_reduce, ring_reduce_scatter
from dessim.collectives.rooted import (
    binomial_broadcast,
    binomial_gather,
    binomial_reduce,
    binomial_scatter,
    chain_broadcast,
    chain_reduce,
    flat_broadcast,
    flat_gather,
    flat_reduce,
    flat_scatter,
)
from dessim.collectives.schedule import Layout, Options, Stage
from dessim.collectives.torus import (
    torus_2d_all_gather,
    torus_2d_all_reduce,
    torus_2d_reduce_scatter,
    torus_3d_all_gather,
    torus_3d_all_reduce,
    torus_3d_reduce_scatter,
)
from dessim.collectives.tree import double_tree_all_reduce, double_tree_broadcast, double_tree_reduce
from dessim.errors import UsageError
from dessim.trace.schema import Collective
from dessim.wording import choose_from

# Up to these numbers of ranks `auto` considers an algorithm; beyond them its simulation takes too long.
DIRECT_LIMIT = 1024  # n**2 messages in one stage, which fill the memory
PAIRWISE_LIMIT = 4096  # n different stages of n messages
CHAIN_LIMIT = 1024  # 2n different stages
TREE_LIMIT = 2048  # few ranks have equal positions in both trees, so symmetric ranks hardly fold
_ONLY_BY_NAME = 0  # `auto` never considers it


@dataclass(frozen=True, slots=True)
class Algorithm:
    """An algorithm for an op.

    `stages(layout, size)` generates the schedule; `takes` names the options that it uses (`chunks`, `root`, `dims`,
    `sizes`, `arrivals`). `unfit` returns the reason why it cannot run on a layout (empty: it can). `auto` considers it
    for up to `auto_up_to` ranks.
    """

    stages: Callable[..., Iterator[Stage]]
    takes: tuple[str, ...] = ()
    unfit: Callable[[Layout], str] = lambda layout: ""
    auto_up_to: float = math.inf


def _whole_nodes(layout: Layout) -> str:
    if layout.is_hierarchical:
        return ""
    return f"needs several whole nodes, which {layout.n} ranks with {layout.per_node} per node do not fill"


def _one_summing_node(layout: Layout) -> str:
    if layout.is_one_node or layout.n == 1:
        return "" if layout.nvls else "needs an NVSwitch that reduces, which the nodes of this cluster do not have"
    return f"works inside one node only; {layout.n} ranks with {layout.per_node} per node span several"


def _summing_fabric(layout: Layout) -> str:
    if layout.n > 1 and layout.is_one_node:
        return f"works across nodes; all {layout.n} ranks are in one"
    return "" if layout.sharp else "needs switches that reduce, which the fabric of this cluster does not have"


def _both_sum(layout: Layout) -> str:
    nodes = _whole_nodes(layout)
    return nodes or ("" if layout.nvls else "needs an NVSwitch that reduces") or _summing_fabric(layout)


def _hierarchical(stages: Callable[..., Iterator[Stage]]) -> Algorithm:
    return Algorithm(stages, unfit=_whole_nodes)


def _torus(stages: Callable[..., Iterator[Stage]]) -> Algorithm:
    return Algorithm(stages, ("dims",), auto_up_to=_ONLY_BY_NAME)


ROOT = ("root",)
PIPELINE = ("chunks", "root")

ALGORITHMS: dict[Collective, dict[str, Algorithm]] = {
    Collective.ALL_REDUCE: {
        "ring": Algorithm(ring_all_reduce),
        "ring_channels": _hierarchical(channel_all_reduce),
        "hierarchical": _hierarchical(hierarchical_all_reduce),
        "double_tree": Algorithm(double_tree_all_reduce, ("chunks",), auto_up_to=TREE_LIMIT),
        "halving_doubling": Algorithm(halving_doubling_all_reduce),
        "recursive_doubling": Algorithm(recursive_doubling_all_reduce),
        "torus_2d": _torus(torus_2d_all_reduce),
        "torus_3d": _torus(torus_3d_all_reduce),
        "nvls": Algorithm(nvls_all_reduce, ("chunks",), _one_summing_node),
        "sharp": Algorithm(sharp_all_reduce, (), _summing_fabric),
        "nvls_sharp": Algorithm(nvls_sharp_all_reduce, ("chunks",), _both_sum),
        "gloo": Algorithm(gloo_all_reduce, auto_up_to=_ONLY_BY_NAME),
    },
    Collective.REDUCE_SCATTER: {
        "ring": Algorithm(ring_reduce_scatter),
        "ring_channels": _hierarchical(channel_reduce_scatter),
        "hierarchical": _hierarchical(hierarchical_reduce_scatter),
        "halving_doubling": Algorithm(halving_doubling_reduce_scatter),
        "torus_2d": _torus(torus_2d_reduce_scatter),
        "torus_3d": _torus(torus_3d_reduce_scatter),
        "nvls": Algorithm(nvls_reduce_scatter, (), _one_summing_node),
        "gloo": Algorithm(gloo_reduce_scatter, auto_up_to=_ONLY_BY_NAME),
    },
    Collective.ALL_GATHER: {
        "ring": Algorithm(ring_all_gather),
        "ring_channels": _hierarchical(channel_all_gather),
        "hierarchical": _hierarchical(hierarchical_all_gather),
        "halving_doubling": Algorithm(halving_doubling_all_gather),
        # Recursive doubling is another name for the second half of halving-doubling.
        "recursive_doubling": Algorithm(halving_doubling_all_gather, auto_up_to=_ONLY_BY_NAME),
        "bruck": Algorithm(bruck_all_gather),
        "torus_2d": _torus(torus_2d_all_gather),
        "torus_3d": _torus(torus_3d_all_gather),
        "nvls": Algorithm(nvls_all_gather, (), _one_summing_node),
        "gloo": Algorithm(gloo_all_gather, auto_up_to=_ONLY_BY_NAME),
    },
    Collective.ALL_TO_ALL: {
        "pairwise": Algorithm(pairwise_all_to_all, ("sizes",), auto_up_to=PAIRWISE_LIMIT),
        "direct": Algorithm(direct_all_to_all, ("sizes",), auto_up_to=DIRECT_LIMIT),
        "hierarchical": _hierarchical(hierarchical_all_to_all),
        "bruck": Algorithm(bruck_all_to_all),
        "gloo": Algorithm(gloo_all_to_all, ("sizes", "arrivals"), auto_up_to=_ONLY_BY_NAME),
    },
    Collective.BROADCAST: {
        "flat": Algorithm(flat_broadcast, ROOT),
        "binomial": Algorithm(binomial_broadcast, ROOT),
        "chain": Algorithm(chain_broadcast, PIPELINE, auto_up_to=CHAIN_LIMIT),
        "double_tree": Algorithm(double_tree_broadcast, PIPELINE, auto_up_to=TREE_LIMIT),
        "scatter_all_gather": Algorithm(scatter_all_gather_broadcast, ROOT),
        "gloo": Algorithm(gloo_broadcast, ROOT, auto_up_to=_ONLY_BY_NAME),
    },
    Collective.REDUCE: {
        "flat": Algorithm(flat_reduce, ROOT),
        "binomial": Algorithm(binomial_reduce, ROOT),
        "chain": Algorithm(chain_reduce, PIPELINE, auto_up_to=CHAIN_LIMIT),
        "double_tree": Algorithm(double_tree_reduce, PIPELINE, auto_up_to=TREE_LIMIT),
        "reduce_scatter_gather": Algorithm(reduce_scatter_gather_reduce, ROOT),
    },
    Collective.GATHER: {"flat": Algorithm(flat_gather, ROOT), "binomial": Algorithm(binomial_gather, ROOT)},
    Collective.SCATTER: {"flat": Algorithm(flat_scatter, ROOT), "binomial": Algorithm(binomial_scatter, ROOT)},
    Collective.SEND_RECV: {"shift": Algorithm(shift_send_recv)},
}


def algorithms_for(
    op: Collective, layout: Layout, uneven: bool = False, offered: Sequence[str] = ()
) -> tuple[str, ...]:
    """Names of the algorithms that `auto` considers for a group with this layout, in table order.

    `offered` are the algorithms that the transport implements (empty: all). If none of them fits the layout, all that
    fit are considered. Raises UsageError for an unknown name in `offered`.
    """
    unknown = [name for name in offered if name not in _table(op)]
    if unknown:
        raise UsageError(f"the transport offers {unknown[0]!r} for {op}; known: {', '.join(_table(op))}")
    fit = [
        name
        for name, algorithm in _table(op).items()
        if not algorithm.unfit(layout) and (not uneven or "sizes" in algorithm.takes)
    ]
    fit = [name for name in fit if not offered or name in offered] or fit
    # A group beyond all limits still needs an algorithm.
    return tuple(name for name in fit if layout.n <= _table(op)[name].auto_up_to) or tuple(fit[:1])


def variants(op: Collective, algorithm: str, options: Options | None = None) -> tuple[Options, ...]:
    """The options with which `algorithm` may run: for a pipeline, unless `options` fix it, each number of chunks."""
    options = options or Options()
    entry = _table(op).get(algorithm)
    if entry is None or "chunks" not in entry.takes or options.chunks is not None:
        return (options,)
    return tuple(replace(options, chunks=chunks) for chunks in CHUNK_COUNTS)


def require_algorithm(op: Collective, algorithm: str) -> None:
    """Raise UsageError for a name that is no algorithm of `op`."""
    if algorithm not in _table(op):
        names = ["auto", *_table(op)]
        raise UsageError(f"--algorithm: no algorithm {algorithm!r} for {op}; {choose_from(algorithm, names)}")


def schedule(
    op: Collective,
    algorithm: str,
    layout: Layout,
    size: float,
    *,
    sizes: Floats | None = None,
    options: Options | None = None,
) -> Iterator[Stage]:
    """The stages of `op` on S = `size` bytes, or on `sizes[i, j]` bytes from rank i to rank j.

    `size` counts as in nccl-tests (dessim.trace.schema). Raises UsageError when the algorithm cannot do this op on this
    layout.
    """
    table = _table(op)
    options = options or Options()
    require_algorithm(op, algorithm)
    entry = table[algorithm]
    unfit = entry.unfit(layout)
    if unfit:
        raise UsageError(f"{algorithm} {op} {unfit}")
    if not 0 <= options.root < layout.n:
        raise UsageError(f"--root {options.root} is not one of the {layout.n} ranks of the group")
    values = {"chunks": options.chunks, "root": options.root, "arrivals": options.arrivals}
    given = {key: values[key] for key in entry.takes if key in values}
    if options.dims and "dims" in entry.takes:
        layout = replace(layout, dims=options.dims)
    if sizes is None:
        return entry.stages(layout, size, **given)
    if "sizes" not in entry.takes:
        raise UsageError(f"{algorithm} cannot run an uneven {op}; choose pairwise or direct for all_to_all")
    return entry.stages(layout, size, sizes, **given)


def check_options(op: Collective, algorithm: str, **given: bool) -> None:
    """Raise UsageError if an option is given that the algorithm ignores.

    `auto` takes the options of all algorithms for its op.
    """
    table = _table(op)
    chosen = table.values() if algorithm == "auto" else [table[algorithm]] if algorithm in table else []
    taken = {option for entry in chosen for option in entry.takes}
    for option, is_given in given.items():
        if is_given and chosen and option not in taken:
            flag = "uneven" if option == "sizes" else option
            able = [name for name, entry in table.items() if option in entry.takes]
            users = f"; it is used by {', '.join(able)}" if able else "; leave it out"
            raise UsageError(f"--{flag} has no effect on {algorithm} {op}{users}")


def _table(op: Collective) -> dict[str, Algorithm]:
    if op not in ALGORITHMS:
        raise UsageError(f"{op} cannot be simulated yet; choose from {', '.join(ALGORITHMS)}")
    return ALGORITHMS[op]
