"""A pipelined plan: one step of it is one period of a pipeline written out step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dessim.cluster import load_cluster
from dessim.sim.engine import simulate
from dessim.trace.schema import PREFETCH, Kind, Phase
from dessim.workload.dag import WORLD, RankClass, Workload
from dessim.workload.from_plan import workload_from_plan
from dessim.workload.memory import memory_of
from dessim.workload.model import load_model
from dessim.workload.plan import Plan
from dessim.workload.strategies import STRATEGIES, plan

PIPELINING = [name for name in STRATEGIES if plan(name, load_model("deepfm")).pipelines]


def durations_of(of: Plan, seconds: float, input_seconds: float) -> dict[str, float]:
    """Seconds of every compute op: one value for ops of the input phase, one for all others."""
    ops = [op for op in of.ops if op.kind is Kind.COMPUTE]
    return {op.name: input_seconds if op.phase is Phase.INPUT else seconds for op in ops}


def unrolled(of: Plan, symbols: dict[str, float], durations: dict[str, float], steps: int) -> Workload:
    """The pipeline written out: `steps` steps with all their dependencies, each with the input ops of the next batch.

    The input ops of a batch wait for those of the batch before, and for the end of the step before that, which frees
    its ids. All other ops of a step wait for its input ops, as in the plan, and for the step before.
    """
    one = workload_from_plan(of, symbols, [durations]).classes[0].tasks
    inputs = [i for i, task in enumerate(one) if task.phase is Phase.INPUT]
    others = [i for i, task in enumerate(one) if task.phase is not Phase.INPUT]
    tasks = []
    at: dict[tuple[int, int], int] = {}  # (step, op) -> position

    def add(step: int, ops: list[int], stream: str | None, after: list[int]) -> None:
        for i in ops:
            own = [at[step, d] for d in one[i].deps]
            at[step, i] = len(tasks)
            stream_of = one[i].stream if stream is None else stream
            tasks.append(replace(one[i], step=step, stream=stream_of, deps=tuple(sorted({*own, *after}))))

    add(0, inputs, PREFETCH, [])
    for step in range(steps):
        done = [at[step - 1, i] for i in others] if step else []
        add(step + 1, inputs, PREFETCH, [*done, *(at[step, i] for i in inputs)])
        add(step, others, None, done)
    ranks = range(int(symbols["N"]))
    return Workload("unrolled", len(ranks), (RankClass(ranks, tuple(tasks)),), {WORLD: ranks}, tuple(range(steps)))


@pytest.mark.parametrize("name", PIPELINING)
@pytest.mark.parametrize(("seconds", "input_seconds"), [(3e-4, 1e-5), (1e-6, 2e-2)])  # steps, then inputs, are longer
def test_a_step_is_the_period_of_the_pipeline(name: str, seconds: float, input_seconds: float) -> None:
    cluster, model = load_cluster("h100-8x_rail_128"), load_model("deepfm_ml100k")
    symbols, of = model.symbols(16, 16 * 512), plan(name, model)
    durations = durations_of(of, seconds, input_seconds)
    period = simulate(cluster, workload_from_plan(of.pipelined(), symbols, [durations])).end
    several = simulate(cluster, workload_from_plan(of.pipelined(), symbols, [durations], steps=3)).end
    assert several == pytest.approx(3 * period, rel=1e-9)
    spans = simulate(cluster, unrolled(of, symbols, durations, 5)).spans
    starts = {step: min(s.start for s in spans if s.step == step and s.phase is not Phase.INPUT) for step in range(5)}
    for step in range(1, 4):
        assert starts[step + 1] - starts[step] == pytest.approx(period, rel=1e-9)
    alone = simulate(cluster, workload_from_plan(of, symbols, [durations])).end
    has_input = any(op.phase is Phase.INPUT for op in of.ops)
    assert period < alone if has_input else period == alone


@pytest.mark.parametrize("name", PIPELINING)
def test_pipelining_keeps_ops_and_bytes_and_drops_waits_for_the_input_phase(name: str) -> None:
    model = load_model("deepfm")
    before, after = plan(name, model), plan(name, model).pipelined()
    assert [op.name for op in after.ops] == [op.name for op in before.ops]
    symbols = model.symbols(8)
    assert after.sent_bytes(symbols) == before.sent_bytes(symbols)
    ahead = {op.name for op in after.ops if op.stream == PREFETCH}
    assert ahead == {op.name for op in before.ops if op.phase is Phase.INPUT}
    for op in after.ops:
        if op.name not in ahead:
            assert op == replace(before.op(op.name), deps=op.deps) and not ahead & {*op.deps}
    assert after.is_pipelined is bool(ahead) and not before.is_pipelined


def test_a_plan_that_does_not_pipeline_is_unchanged() -> None:
    of = replace(plan("des_all_reduce", load_model("deepfm")), pipelines=False)
    assert of.pipelined() is of


def test_ids_of_two_batches_are_in_memory() -> None:
    model = load_model("deepfm")
    of, symbols = plan("des_reduce_scatter", model), model.symbols(8)
    more = memory_of(of.pipelined(), symbols).activations - memory_of(of, symbols).activations
    b, m = symbols["B"] / 8, symbols["m"]
    # The batch's own ids, the message received, and the counts before it.
    assert more == pytest.approx(b * m * (8 + 12) + 8 * 8)
