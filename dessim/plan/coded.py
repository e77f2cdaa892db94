"""The formats of values on the wire as a choice of a plan.

A codec changes what is trained, so a plan has only those that the user allows, and by default none. Each kind of values
(activations, gradients, gradients of dense weights) has one codec in all groups of tables: whether a model trains well
in a format is tested by kind, and TorchRec's QCommsConfig and the trainer name formats by kind as well.

The whole search runs once for each codec, since tables are split and placed by what their messages cost. Then each kind
of values of the fastest plan tries the other codecs that it may have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dessim.errors import CapacityError, UsageError
from dessim.plan.candidates import Candidate, PlanProblem, order, recoded, step_of
from dessim.plan.search import RankedPlans, loaded, search
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.workload.codecs import PLAIN, Buffer, CodecConfig, parse_codec
from dessim.workload.coded_plan import require_floats
from dessim.workload.composed import COLUMN_WISE

Allowed = Mapping[Buffer, Sequence[str]]
"""The codecs that each kind of values may have, as text, in the order in which the user names them."""
EXACT = "fp32"
NONE: Allowed = dict.fromkeys(Buffer, (EXACT,))
"""No codec for any kind of values."""


def parse_allowed(text: str) -> Allowed:
    """`fp32,bf16,dense=fp16`: codecs of all kinds of values that may have them, and of one kind. Raises UsageError."""
    allowed: dict[Buffer, list[str]] = {buffer: [] for buffer in Buffer}
    for part in (part.strip() for part in text.split(",")):
        kind, has_kind, codec = part.rpartition("=")
        if has_kind:
            CodecConfig.of({kind: codec})
        for buffer in [Buffer(kind)] if has_kind else parse_codec(codec).buffers:
            if codec not in allowed[buffer]:
                allowed[buffer].append(codec)
    return {buffer: codecs or [EXACT] for buffer, codecs in allowed.items()}


def search_codecs(problem: PlanProblem, allowed: Allowed, progress: Progress) -> RankedPlans:
    """Plan a job on one number of GPUs with `allowed` codecs.

    Raises CapacityError if nothing fits, UsageError, and OutOfTime.
    """
    starts = _starts(allowed)
    if starts == [PLAIN]:
        return search(problem, progress)
    problem = replace(problem, routed=RouteCache(problem.cluster))
    searched: list[RankedPlans] = []
    reasons: list[CapacityError] = []
    for number, codecs in enumerate(starts):
        require_floats(problem.model, codecs)
        try:
            searched.append(search(_with(problem, codecs), progress.within(number, len(starts), "codecs")))
        except CapacityError as error:
            reasons.append(error)
        problem = replace(problem, given={})  # given plans compete once, as they are
    if not searched:
        raise reasons[0]
    candidates = [candidate for one in searched for candidate in one.candidates]
    candidates += _other_kinds(problem, min(candidates, key=order), allowed)
    ranked = tuple(sorted(candidates, key=order))
    bound = min(one.bound_s for one in searched)
    best = min(one.bound_s * (1 + one.gap) for one in searched)
    refused = tuple(reason for one in searched for reason in one.refused)
    return RankedPlans(
        problem.gpus, problem.batch, ranked, bound, best / bound - 1, loaded(problem, ranked[0].plan), refused
    )


def _starts(allowed: Allowed) -> list[CodecConfig]:
    """Each codec for all kinds of values that may have it; the others have the first that they may have."""
    named = dict.fromkeys(codec for codecs in allowed.values() for codec in codecs)
    configs = [
        CodecConfig.of({buffer: name if name in may_have else may_have[0] for buffer, may_have in allowed.items()})
        for name in named
    ]
    return list({str(config): config for config in configs}.values())


def _with(problem: PlanProblem, codecs: CodecConfig) -> PlanProblem:
    """The problem with these codecs. They encode whole rows, so no columns are split. Raises UsageError."""
    if not set(codecs.by_buffer) - {Buffer.DENSE}:
        return replace(problem, codecs=codecs)
    split = [table for table, choice in problem.pinned.items() if choice.family == COLUMN_WISE]
    if split:
        raise UsageError(
            f"--codecs {codecs}: codecs encode whole rows, and --keep splits the columns of table {split[0]}"
        )
    strategies = [name for name in problem.strategies if name != COLUMN_WISE]
    return replace(problem, codecs=codecs, strategies=strategies)


def _other_kinds(problem: PlanProblem, best: Candidate, allowed: Allowed) -> list[Candidate]:
    """`best` with other codecs, simulated: one kind of values after the other, each from the fastest plan so far."""
    known = {str(best.codecs)}
    tried: list[Candidate] = []
    for buffer in Buffer:
        own = {kind: str(codec) for kind, codec in best.codecs.by_buffer.items()}
        for codec in allowed[buffer]:
            codecs = CodecConfig.of({kind: codec if kind is buffer else own.get(kind, EXACT) for kind in Buffer})
            changed = recoded(problem, best, codecs) if str(codecs) not in known else None
            known.add(str(codecs))
            if changed is not None:
                tried.append(changed)
        best = min([best, *tried], key=step_of)
    return tried
