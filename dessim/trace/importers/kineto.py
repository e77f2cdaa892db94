"""Import profiles of PyTorch (Kineto), one a rank of a job, as a trace.

Collectives are matched over the ranks by their order in their group, which NCCL and gloo require to be the same
everywhere. Steps are those of `prof.step()`; an op belongs to the step in which the host asked for it.

What a profile does not say and a trace would: formulas, FLOPs and bytes of compute, dependencies (a replay derives
them from what had ended when an op began), and, by backend and age, groups and splits. `Imported.lacking` tells.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dessim.errors import TraceError
from dessim.trace.importers.clocks import clock_offsets, step_us
from dessim.trace.importers.kineto_calls import Call, calls_of
from dessim.trace.importers.kineto_compute import Phases, Work, work_of
from dessim.trace.importers.kineto_file import Profile, find_profiles, read_profile
from dessim.trace.importers.matching import Made, match
from dessim.trace.schema import Collective, Header, Kind, Op

WORLD = "world"


@dataclass(frozen=True, slots=True)
class Imported:
    """A trace to be written, and what the profiles lacked for it, a sentence each."""

    header: Header
    ranks: tuple[tuple[Op, ...], ...]
    lacking: tuple[str, ...]


@dataclass(slots=True)
class _Rank:
    """One rank's profile, cut into steps; times are us after the job's origin."""

    profile: Profile
    steps: dict[int, tuple[float, float]]
    shift_us: float
    work: list[tuple[int, Work]]
    calls: list[tuple[int, Call]]


def import_kineto(paths: Iterable[Path], name: str) -> Imported:
    """Read the profiles of all ranks of a job: files, or folders of them. Raises TraceError."""
    profiles = _all_ranks([read_profile(path) for path in find_profiles(paths)])
    base = min(profile.base_ns for profile in profiles)
    ranks = [_cut(profile, (profile.base_ns - base) / 1000) for profile in profiles]
    steps = sorted(set.intersection(*(set(rank.steps) for rank in ranks)))
    if not steps:
        raise TraceError(profiles[0].path, "", "no step of prof.step() is in the profiles of all ranks")
    origin = min(rank.steps[steps[0]][0] + rank.shift_us for rank in ranks)
    for rank in ranks:
        rank.shift_us -= origin
    lacking: list[str] = []
    groups, named = _groups_of(ranks, frozenset(steps), lacking)
    ops = _ops(ranks, groups, named, frozenset(steps), lacking)
    offsets = clock_offsets(ops, lacking)
    first = profiles[0]
    header = Header(
        name=name,
        world_size=len(profiles),
        backend=first.backend,
        device=first.device,
        strategy="recorded",
        model={},
        symbols={"N": float(len(profiles))},
        groups=groups,
        warmup_steps=(),
        recorded_steps=tuple(steps),
        clock_offset_us=offsets,
        step_us={"recorded": tuple(step_us(ops, offsets, step) for step in steps)},
        software={"imported": "PyTorch profiles (Kineto)", "lacking": "; ".join(lacking)},
    )
    return Imported(header, tuple(tuple(rank) for rank in ops), tuple(lacking))


def _all_ranks(profiles: Sequence[Profile]) -> list[Profile]:
    """The profiles in order of ranks, each once."""
    by_rank: dict[int, Profile] = {}
    for profile in profiles:
        if profile.alone and len(profiles) > 1:
            what = "does not say of which rank it is; profile after torch.distributed.init_process_group"
            raise TraceError(profile.path, "distributedInfo", what)
        other = by_rank.setdefault(profile.rank, profile)
        if other is not profile:
            raise TraceError(profile.path, "distributedInfo.rank", f"is {profile.rank}, as in {other.path}")
        if profile.world_size != profiles[0].world_size:
            what = f"is {profile.world_size}, but {profiles[0].world_size} in {profiles[0].path}"
            raise TraceError(profile.path, "distributedInfo.world_size", what)
    missing = [str(rank) for rank in range(profiles[0].world_size) if rank not in by_rank]
    if missing:
        which = ", ".join(missing[:8]) + (" ..." if len(missing) > 8 else "")
        what = f"one of {profiles[0].world_size} ranks; give the profiles of ranks {which} as well"
        raise TraceError(profiles[0].path, "", what)
    return [by_rank[rank] for rank in sorted(by_rank)]


def _cut(profile: Profile, shift_us: float) -> _Rank:
    steps: dict[int, tuple[float, float]] = {}
    for event in profile.events:
        number = event.name.removeprefix("ProfilerStep#")
        if event.category == "user_annotation" and number != event.name and number.isdecimal():
            steps[int(number)] = (event.start_us, event.end_us)
    if not steps:
        if not profile.events:
            raise TraceError(profile.path, "", "holds no events")
        steps = {0: (profile.events[0].start_us, float("inf"))}
    ordered = sorted(steps.items(), key=lambda item: item[1])
    starts = [start for _, (start, _) in ordered]

    def step_at(when: float) -> int | None:
        place = bisect_right(starts, when) - 1
        return ordered[place][0] if place >= 0 and when <= ordered[place][1][1] else None

    work = [(step, w) for w in work_of(profile) if (step := step_at(w.asked_us)) is not None]
    calls = [(step, c) for c in calls_of(profile) if (step := step_at(c.asked_us)) is not None]
    return _Rank(profile, steps, shift_us, work, calls)


def _groups_of(
    ranks: Sequence[_Rank], steps: frozenset[int], lacking: list[str]
) -> tuple[dict[str, tuple[int, ...]], dict[tuple[str, int], str]]:
    """The groups of a job by name, and how each rank's own names (name, rank) map to them.

    NCCL numbers groups a process: the same name may be another group elsewhere.
    """
    everyone = tuple(range(len(ranks)))
    groups: dict[str, tuple[int, ...]] = {WORLD: everyone}
    named: dict[tuple[str, int], str] = {}
    unsaid = False
    for number, rank in enumerate(ranks):
        for step, call in rank.calls:
            if step not in steps:
                continue
            if call.group is None:
                unsaid = True
                continue
            members = call.ranks or (rank.profile.groups or {}).get(call.group) or call.strided
            if members is None and call.group != WORLD:
                what = f"its ranks are not recorded (group {call.group!r}); a newer torch records them"
                raise TraceError(rank.profile.path, f"{call.kind} at {call.start_us:.3f} us", what)
            members = members or everyone
            if number not in members or not set(members) <= set(everyone):
                what = f"group {call.group!r} of ranks {list(members)[:8]} is not one of rank {number} of {len(ranks)}"
                raise TraceError(rank.profile.path, f"{call.kind} at {call.start_us:.3f} us", what)
            own = next(
                name
                for name in (call.group, *(f"{call.group}#{k}" for k in range(2, len(groups) + 3)))
                if groups.get(name, members) == members
            )
            groups[own] = members
            named[call.group, number] = own
    if unsaid:
        lacking.append("groups are not recorded: every collective counts as one of all ranks")
    return groups, named


def _ops(
    ranks: Sequence[_Rank],
    groups: Mapping[str, tuple[int, ...]],
    named: Mapping[tuple[str, int], str],
    steps: frozenset[int],
    lacking: list[str],
) -> list[list[Op]]:
    """All ranks' ops by their start; collectives have the same name on each rank."""
    made: list[list[Made]] = []
    for number, rank in enumerate(ranks):
        phases = Phases(rank.profile)
        mine: list[Made] = []
        for step, work in rank.work:
            if step in steps:
                phase = phases.at(work.asked_tid, work.asked_us)
                start = work.start_us + rank.shift_us
                mine.append((Op(0, step, phase, work.kind, work.name, work.stream, start, work.dur_us), None))
        for step, call in rank.calls:
            if step in steps:
                mine.append((_collective(rank, number, step, call, groups, named, phases), call))
        made.append(mine)
    if any(op.kind is Kind.P2P for mine in made for op, _ in mine):
        lacking.append("send and recv are not matched: in a replay each takes as long as it took")
    match([rank.profile.path for rank in ranks], made, groups, lacking)
    return [_numbered(sorted((op for op, _ in mine), key=lambda op: (op.step, op.start_us))) for mine in made]


def _collective(
    rank: _Rank,
    number: int,
    step: int,
    call: Call,
    groups: Mapping[str, tuple[int, ...]],
    named: Mapping[tuple[str, int], str],
    phases: Phases,
) -> Op:
    group = named.get((call.group, number), WORLD) if call.group is not None else WORLD
    size = _bytes(call, len(groups[group]))
    p2p = call.kind is Collective.SEND_RECV
    return Op(
        id=0,
        step=step,
        phase=phases.at(call.asked_tid, call.asked_us),
        kind=Kind.P2P if p2p else Kind.COLLECTIVE,
        name=str(call.kind),
        stream=call.stream,
        start_us=call.start_us + rank.shift_us,
        dur_us=call.dur_us,
        collective=None if p2p else call.kind,
        group=group,
        bytes=size,
        dtype=call.dtype,
        splits=tuple(n * call.width for n in call.splits) if call.splits else None,
        peer=call.peer,
    )


def _bytes(call: Call, members: int) -> int:
    """S of nccl-tests (dessim.trace.schema)."""
    match call.kind:
        case Collective.ALL_GATHER:
            elements = call.outputs if call.outputs is not None else call.inputs * members
        case Collective.GATHER:
            elements = call.inputs * members
        case Collective.SCATTER:
            elements = (call.outputs if call.outputs is not None else call.inputs) * members
        case _:
            elements = call.inputs
    return elements * call.width


def _numbered(ops: Sequence[Op]) -> list[Op]:
    """Ids in order, and names that are there once in a step."""
    seen: Counter[tuple[int, str]] = Counter()
    numbered = []
    for place, op in enumerate(ops):
        seen[op.step, op.name] += 1
        count = seen[op.step, op.name]
        name = op.name if op.kind is Kind.COLLECTIVE or count == 1 else f"{op.name} #{count}"
        numbered.append(replace(op, id=place, name=name, splits=op.splits or None))
    return numbered
