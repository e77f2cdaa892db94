"""Every schedule computes its collective, and the symbolic checker rejects schedules that do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from dessim.collectives import ALGORITHMS, Layout, Options, Stage, algorithms_for, check_options, schedule
from dessim.collectives.pipeline import MESSAGE_SIZE, chunks_for
from dessim.collectives.symbolic import check_schedule
from dessim.collectives.torus import factors
from dessim.errors import UsageError
from dessim.trace.schema import Collective, sent_factor
from tests.collectives.cases import SIZES, Case, cases

NAMES = [(op, name) for op, table in ALGORITHMS.items() for name in table]
RANDOM = np.random.default_rng(0)


def cases_of(op: Collective, name: str, sizes: tuple[int, ...] = SIZES) -> Iterator[Case]:
    return (case for case in cases(sizes) if (case.op, case.name) == (op, name))


@pytest.mark.parametrize(("op", "name"), NAMES)
def test_schedule_computes_its_collective(op: Collective, name: str) -> None:
    all_cases = list(cases_of(op, name))
    needs_nodes = all_cases[0].layout.per_node != 1
    assert {case.layout.n for case in all_cases} >= ({4, 8, 16, 32, 64} if needs_nodes else set(SIZES))
    for case in all_cases:
        problems = check_schedule(op, case.layout.n, case.stages(3.0), case.options.root, size=3.0)
        assert problems == [], str(case)


@pytest.mark.parametrize("dims", [(2, 3), (3, 2), (1, 6), (5, 4), (4, 5), (2, 3, 4), (4, 1, 3), (2, 2, 2)])
def test_torus_schedules_are_correct_for_any_sides(dims: tuple[int, ...]) -> None:
    n = int(np.prod(dims))
    for op in (Collective.ALL_REDUCE, Collective.REDUCE_SCATTER, Collective.ALL_GATHER):
        stages = list(schedule(op, f"torus_{len(dims)}d", Layout(n), 1.0, options=Options(dims=dims)))
        assert check_schedule(op, n, stages, size=1.0) == []
        phases = 2 if op is Collective.ALL_REDUCE else 1
        assert sum(stage.repeat for stage in stages) == phases * sum(d - 1 for d in dims)


def test_torus_sides_are_balanced_unless_given() -> None:
    assert factors(Layout(64), 2) == (8, 8) and factors(Layout(64), 3) == (4, 4, 4)
    assert factors(Layout(12), 2) == (4, 3) and factors(Layout(24), 3) == (4, 3, 2)
    assert factors(Layout(13), 2) == (13, 1) and factors(Layout(1), 3) == (1, 1, 1)
    assert factors(Layout(16, dims=(8, 2)), 2) == (8, 2)


ONE_LEVEL = ("ring", "ring_channels", "halving_doubling", "torus_2d", "torus_3d", "pairwise", "direct")


@pytest.mark.parametrize(("op", "name"), [pair for pair in NAMES if pair[1] in (*ONE_LEVEL, "hierarchical")])
def test_each_rank_sends_the_expected_bytes(op: Collective, name: str) -> None:
    """One-level algorithms send the bytes that busbw assumes; two-level ones also send a share over NVLink."""
    for case in cases_of(op, name):
        n, g = case.layout.n, case.layout.per_node
        if name == "halving_doubling" and n & (n - 1):
            continue  # folding ranks in and out sends more
        sent = np.zeros(n)
        for stage in case.stages():
            np.add.at(sent, stage.src, stage.size * stage.repeat)
        expected = sent_factor(op, n)
        if name == "hierarchical":
            m = n // g
            node, rail = (g - 1) / g, (m - 1) / m / (1 if op is Collective.ALL_TO_ALL else g)
            expected = (2 if op is Collective.ALL_REDUCE else 1) * (node + rail)
        assert sent == pytest.approx(np.full(n, expected), rel=1e-12), str(case)


def test_each_gpu_of_a_node_sends_one_channel_to_the_next_node() -> None:
    (stage, _) = schedule(Collective.ALL_REDUCE, "ring_channels", Layout(16, 4), 1.0)
    across = stage.src // 4 != stage.dst // 4
    assert sorted(stage.src[across].tolist()) == sorted(stage.dst[across].tolist()) == list(range(16))
    assert stage.size[across] == pytest.approx(1 / 16 / 4) and stage.size[~across] == pytest.approx(3 / 16 / 4)


@pytest.mark.parametrize("n", [*range(2, 18), 32, 64])
def test_double_trees_have_no_inner_rank_in_common_but_the_root(n: int) -> None:
    stages = list(schedule(Collective.BROADCAST, "double_tree", Layout(n), 1.0, options=Options(chunks=n)))
    edges = [(s.pattern, s.src, s.dst, s.carries(0)) for s in stages if s.carries]
    inside: list[set[int]] = [set(), set()]
    for _, src, dst, carried in edges:
        for a, b, (piece,) in zip(src.tolist(), dst.tolist(), carried, strict=True):
            inside[piece // n].add(a)
            assert a != b
    assert inside[0] & inside[1] == {0}


def mutants(stages: list[Stage], n: int) -> Iterable[list[Stage]]:
    """Faulty copies of a schedule.

    In turn for each stage: the stage is left out, has one repetition fewer, other receivers, a message missing, larger
    messages, copies instead of sums, or is executed twice.
    """
    for i, stage in enumerate(stages):
        before, after = stages[:i], stages[i + 1 :]
        yield [*before, *after]
        if stage.repeat > 1:
            yield [*before, replace(stage, repeat=stage.repeat - 1), *after]
        if stage.trees is None:
            # In these stages another receiver may be harmless, if it still passes the sum on.
            if stage.pattern[0] not in ("pairs", "binomial"):
                yield [*before, replace(stage, dst=(stage.dst + 1) % n), *after]
            yield [*before, _lose(stage), *after]
        yield [*before, replace(stage, size=stage.size * 1.5), *after]
        if isinstance(stage.reduce, bool) and stage.reduce:
            yield [*before, replace(stage, reduce=False), *after]
            yield [*before, stage, stage, *after]


def _lose(stage: Stage) -> Stage:
    carries = stage.carries
    assert carries is not None
    flags = stage.reduce if isinstance(stage.reduce, bool) else stage.reduce[1:]
    fewer = replace(stage, src=stage.src[1:], dst=stage.dst[1:], size=stage.size[1:], reduce=flags)
    return replace(fewer, carries=lambda t: carries(t)[1:])


# Composed ops send some pieces to ranks that have them already or do not need them; losing those is harmless.
REDUNDANT = ("scatter_all_gather", "reduce_scatter_gather")


@pytest.mark.parametrize(("op", "name"), NAMES)
def test_checker_rejects_every_mutant(op: Collective, name: str) -> None:
    tried = 0
    harmless = 0
    for case in cases_of(op, name, (3, 5, 6, 8)):
        n, root = case.layout.n, case.options.root
        for mutant in mutants(list(case.stages()), n):
            tried += 1
            passes = check_schedule(op, n, mutant, root, size=1.0) == []
            harmless += passes
            assert not passes or name in REDUNDANT, (str(case), mutant)
    assert tried and harmless <= 0.15 * tried


def test_checker_describes_the_error() -> None:
    ring = list(schedule(Collective.ALL_REDUCE, "ring", Layout(4), 1.0))
    half = replace(ring[0], carries=None)
    assert "does not say which pieces it carries" in check_schedule(Collective.ALL_REDUCE, 4, [half])[0]
    assert "do not agree" in check_schedule(Collective.ALL_REDUCE, 4, [ring[0], replace(ring[1], pieces=8)])[0]
    assert "shared evenly" in check_schedule(Collective.ALL_GATHER, 4, [replace(ring[1], pieces=6)])[0]
    itself = replace(ring[0], dst=ring[0].src)
    assert "sends to itself" in check_schedule(Collective.ALL_REDUCE, 4, [itself])[0]
    assert "ends with piece" in check_schedule(Collective.BROADCAST, 2, [])[0]
    with pytest.raises(ValueError, match="no symbolic meaning"):
        check_schedule(Collective.BARRIER, 2, [])


def test_a_switch_may_not_add_a_contribution_twice() -> None:
    (stage,) = schedule(Collective.ALL_REDUCE, "sharp", Layout(4, 1, sharp=True), 1.0)
    again = check_schedule(Collective.ALL_REDUCE, 4, [stage, stage])
    assert "a switch adds a contribution" in again[0]


def test_the_number_of_chunks_follows_from_the_size() -> None:
    assert chunks_for(1.0, 1) == 1 and chunks_for(MESSAGE_SIZE, 1) == 1 and chunks_for(MESSAGE_SIZE + 1, 1) == 2
    assert chunks_for(64 * MESSAGE_SIZE, 2) == 32 and chunks_for(1.0, 1, 7) == 7
    sizes = [s.size.max() for s in schedule(Collective.BROADCAST, "chain", Layout(4), 1e9)]
    assert max(sizes) <= MESSAGE_SIZE


def test_errors_say_which_layout_or_choice_is_needed() -> None:
    def refused(match: str, op: Collective, name: str, layout: Layout, options: Options | None = None) -> None:
        with pytest.raises(UsageError, match=match):
            list(schedule(op, name, layout, 1.0, options=options))

    refused("choose from auto, ring, ring_channels, hierarchical", Collective.ALL_REDUCE, "butterfly", Layout(4))
    refused("several whole nodes", Collective.ALL_REDUCE, "hierarchical", Layout(4, 4))
    refused("cannot be simulated yet", Collective.BARRIER, "ring", Layout(4))
    refused("NVSwitch that reduces", Collective.ALL_REDUCE, "nvls", Layout(8, 8))
    refused("works inside one node only", Collective.ALL_REDUCE, "nvls", Layout(16, 8, nvls=True))
    refused("switches that reduce", Collective.ALL_REDUCE, "sharp", Layout(16, 8, nvls=True))
    refused("works across nodes", Collective.ALL_REDUCE, "sharp", Layout(8, 8, sharp=True))
    refused("NVSwitch that reduces", Collective.ALL_REDUCE, "nvls_sharp", Layout(16, 8, sharp=True))
    refused("dims 3x4 are not 2 factors of 16", Collective.ALL_REDUCE, "torus_2d", Layout(16), Options(dims=(3, 4)))
    refused("--root 4 is not one of the 4 ranks", Collective.BROADCAST, "flat", Layout(4), Options(root=4))
    with pytest.raises(UsageError, match="uneven"):
        schedule(Collective.ALL_TO_ALL, "bruck", Layout(4), 1.0, sizes=np.ones((4, 4)))


def test_options_without_effect_are_refused() -> None:
    check_options(Collective.ALL_REDUCE, "double_tree", chunks=True, root=False)
    check_options(Collective.ALL_REDUCE, "auto", chunks=True)
    with pytest.raises(UsageError, match="--chunks has no effect on ring all_reduce; it is used by double_tree, nvls"):
        check_options(Collective.ALL_REDUCE, "ring", chunks=True)
    with pytest.raises(UsageError, match="--root has no effect on auto all_reduce"):
        check_options(Collective.ALL_REDUCE, "auto", root=True)
    with pytest.raises(
        UsageError, match="--uneven has no effect on hierarchical all_to_all; it is used by pairwise, direct"
    ):
        check_options(Collective.ALL_TO_ALL, "hierarchical", sizes=True)


def test_auto_considers_only_algorithms_that_fit() -> None:
    flat = ("ring", "double_tree", "halving_doubling", "recursive_doubling")
    assert algorithms_for(Collective.ALL_REDUCE, Layout(8, 8)) == flat
    assert algorithms_for(Collective.ALL_REDUCE, Layout(8, 8, nvls=True)) == (*flat, "nvls")
    assert algorithms_for(Collective.ALL_TO_ALL, Layout(16, 8)) == ("pairwise", "direct", "hierarchical", "bruck")
    assert algorithms_for(Collective.ALL_TO_ALL, Layout(16, 8), uneven=True) == ("pairwise", "direct")
    assert "direct" in algorithms_for(Collective.ALL_TO_ALL, Layout(1024, 8))
    assert algorithms_for(Collective.ALL_TO_ALL, Layout(8192, 8)) == ("hierarchical", "bruck")
    assert algorithms_for(Collective.ALL_TO_ALL, Layout(8192, 8), uneven=True) == ("pairwise",)


def test_auto_considers_only_algorithms_of_the_transport() -> None:
    assert algorithms_for(Collective.ALL_REDUCE, Layout(16, 8), offered=("ring",)) == ("ring",)
    # If none of them fits, any other that fits is considered.
    assert algorithms_for(Collective.ALL_REDUCE, Layout(5, 1), offered=("hierarchical",)) != ()
    with pytest.raises(UsageError, match="offers 'telepathy'"):
        algorithms_for(Collective.ALL_REDUCE, Layout(4), offered=("telepathy",))
