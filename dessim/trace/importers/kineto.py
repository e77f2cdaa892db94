"""Import the PyTorch (Kineto) profiles of all ranks of a job as a trace.

Collectives are matched across ranks by their order in their group, which NCCL and gloo require to be the same on every
rank. Steps are those of `prof.step()`; an op belongs to the step in which the host issued it.

Profiles do not contain formulas, FLOPs and bytes of compute, and dependencies. A replay derives them from the ops that
had ended when an op began; waits for gloo are derived here (dessim.trace.importers.waits). Depending on backend and
version they also lack groups and splits; `Imported.lacking` says so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dessim.errors import TraceError
from dessim.trace.importers.clocks import clock_offsets, step_us
from dessim.trace.importers.kineto_calls import Call, calls_of
from dessim.trace.importers.kineto_compute import Phases, Work, work_of
from dessim.trace.importers.kineto_file import Profile, find_profiles, read_profile
from dessim.trace.importers.matching import OpWithCall, match
from dessim.trace.importers.waits import with_waits
from dessim.trace.schema import Collective, Header, Kind, Op

WORLD = "world"


@dataclass(frozen=True, slots=True)
class Imported:
    """A trace to be written, and a sentence for each kind of information that the profiles lack."""

    header: Header
    ranks: tuple[tuple[Op, ...], ...]
    lacking: tuple[str, ...]


@dataclass(slots=True)
class _Rank:
    """One rank's profile, cut into steps (start, end): work and calls with their steps.

    Add `shift_us` to the profile's times to get microseconds after the job's origin.
    """

    profile: Profile
    steps: dict[int, tuple[float, float]]
    shift_us: float
    work: list[tuple[int, Work]]
    calls: list[tuple[int, Call]]


@dataclass(slots=True)
class _Groups:
    """The groups of a job: their `members` by name, and `names[own, rank]` of the group that a rank calls `own`.

    NCCL numbers groups per process, so the same name may be another group on another rank.
    """

    members: dict[str, tuple[int, ...]]
    names: dict[tuple[str, int], str]

    def add(self, own: str, rank: int, members: tuple[int, ...]) -> None:
        """Note that `rank` calls the group with these members `own`."""
        candidates = (own, *(f"{own}#{k}" for k in range(2, len(self.members) + 3)))
        name = next(name for name in candidates if self.members.get(name, members) == members)
        self.members[name] = members
        self.names[own, rank] = name

    def name_of(self, call: Call, rank: int) -> str:
        """The name of the group of a rank's call; all ranks if the call does not record its group."""
        return self.names.get((call.group, rank), WORLD) if call.group is not None else WORLD


def import_kineto(paths: Iterable[Path], name: str) -> Imported:
    """Import the profiles of all ranks of a job as trace `name`; `paths` are files, or folders of files.

    Raises TraceError if a profile is malformed or missing, or if profiles do not match.
    """
    profiles = _all_ranks([read_profile(path) for path in find_profiles(paths)])
    base_ns = min(profile.base_ns for profile in profiles)
    ranks = [_cut(profile, (profile.base_ns - base_ns) / 1000) for profile in profiles]
    steps = sorted(set.intersection(*(set(rank.steps) for rank in ranks)))
    if not steps:
        raise TraceError(profiles[0].path, "", "no step of prof.step() is in the profiles of all ranks")
    origin = min(rank.steps[steps[0]][0] + rank.shift_us for rank in ranks)
    for rank in ranks:
        rank.shift_us -= origin
    lacking: list[str] = []
    groups = _groups_of(ranks, frozenset(steps), lacking)
    ops = _ops(ranks, groups, frozenset(steps), lacking)
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
        groups=groups.members,
        warmup_steps=(),
        recorded_steps=tuple(steps),
        clock_offset_us=offsets,
        step_us={"recorded": tuple(step_us(ops, offsets, step) for step in steps)},
        software={"imported": "PyTorch profiles (Kineto)", "lacking": "; ".join(lacking)},
    )
    return Imported(header, tuple(tuple(rank) for rank in ops), tuple(lacking))


def _all_ranks(profiles: Sequence[Profile]) -> list[Profile]:
    """The profiles in rank order. Raises TraceError unless there is exactly one per rank of one job."""
    by_rank: dict[int, Profile] = {}
    for profile in profiles:
        if profile.alone and len(profiles) > 1:
            problem = "does not name its rank; profile after torch.distributed.init_process_group"
            raise TraceError(profile.path, "distributedInfo", problem)
        other = by_rank.setdefault(profile.rank, profile)
        if other is not profile:
            raise TraceError(profile.path, "distributedInfo.rank", f"is {profile.rank}, as in {other.path}")
        if profile.world_size != profiles[0].world_size:
            problem = f"is {profile.world_size}, but {profiles[0].world_size} in {profiles[0].path}"
            raise TraceError(profile.path, "distributedInfo.world_size", problem)
    missing = [str(rank) for rank in range(profiles[0].world_size) if rank not in by_rank]
    if missing:
        listed = ", ".join(missing[:8]) + (" ..." if len(missing) > 8 else "")
        problem = f"one of {profiles[0].world_size} ranks; give the profiles of ranks {listed} as well"
        raise TraceError(profiles[0].path, "", problem)
    return [by_rank[rank] for rank in sorted(by_rank)]


def _cut(profile: Profile, shift_us: float) -> _Rank:
    """Assign the work and calls of a profile to its steps; without steps the whole profile is step 0."""
    steps: dict[int, tuple[float, float]] = {}
    for event in profile.events:
        number = event.name.removeprefix("ProfilerStep#")
        if event.category == "user_annotation" and number != event.name and number.isdecimal() and len(number) < 10:
            steps[int(number)] = (event.start_us, event.end_us)
    if not steps:
        if not profile.events:
            raise TraceError(profile.path, "", "holds no events")
        steps = {0: (profile.events[0].start_us, float("inf"))}
    ordered = sorted(steps.items(), key=lambda item: item[1])
    starts = [start for _, (start, _) in ordered]

    def step_at(when: float) -> int | None:
        index = bisect_right(starts, when) - 1
        return ordered[index][0] if index >= 0 and when <= ordered[index][1][1] else None

    work = [(step, w) for w in work_of(profile) if (step := step_at(w.issued_us)) is not None]
    calls = [(step, c) for c in calls_of(profile) if (step := step_at(c.issued_us)) is not None]
    return _Rank(profile, steps, shift_us, work, calls)


def _groups_of(ranks: Sequence[_Rank], steps: frozenset[int], lacking: list[str]) -> _Groups:
    """The groups of all calls in `steps`. Raises TraceError if the ranks of a group are unknown or impossible."""
    everyone = tuple(range(len(ranks)))
    groups = _Groups(members={WORLD: everyone}, names={})
    unrecorded = False
    for number, rank in enumerate(ranks):
        for step, call in rank.calls:
            if step not in steps:
                continue
            if call.group is None:
                unrecorded = True
                continue
            # torch truncates long lists of ranks; the file's list of groups, then first rank and stride, replace them.
            members = call.ranks or (rank.profile.groups or {}).get(call.group) or call.strided
            where = f"{call.kind} at {call.start_us:.3f} us"
            if members is None and call.group != WORLD:
                problem = f"its ranks are not recorded (group {call.group!r}); a newer torch records them"
                raise TraceError(rank.profile.path, where, problem)
            members = members or everyone
            if number not in members or not set(members) <= set(everyone):
                listed = f"group {call.group!r} of ranks {list(members)[:8]}"
                problem = f"{listed} does not contain rank {number}, or has ranks beyond the job's {len(ranks)}"
                raise TraceError(rank.profile.path, where, problem)
            groups.add(call.group, number, members)
    if unrecorded:
        lacking.append("groups are not recorded: every collective counts as one of all ranks")
    return groups


def _ops(ranks: Sequence[_Rank], groups: _Groups, steps: frozenset[int], lacking: list[str]) -> list[list[Op]]:
    """The ops of each rank, ordered by step and start; matching collectives have the same name."""
    ops: list[list[OpWithCall]] = []
    for number, rank in enumerate(ranks):
        phases = Phases(rank.profile)
        rank_ops: list[OpWithCall] = []
        for step, work in rank.work:
            if step in steps:
                rank_ops.append((_compute_op(work, step, rank.shift_us, phases), None))
        for step, call in rank.calls:
            if step in steps:
                group = groups.name_of(call, number)
                size = _bytes(call, len(groups.members[group]))
                rank_ops.append((_collective_op(call, step, rank.shift_us, phases, group=group, size=size), call))
        ops.append(rank_ops)
    if any(op.kind is Kind.P2P for rank_ops in ops for op, _ in rank_ops):
        lacking.append("send and recv are not matched: in a replay each takes its recorded time")
    match([rank.profile.path for rank in ranks], ops, groups.members, lacking)
    ordered = (sorted((op for op, _ in rank_ops), key=lambda op: (op.step, op.start_us)) for rank_ops in ops)
    return [with_waits(_numbered(rank_ops)) for rank_ops in ordered]


def _compute_op(work: Work, step: int, shift_us: float, phases: Phases) -> Op:
    return Op(
        id=0,
        step=step,
        phase=phases.at(work.issued_tid, work.issued_us),
        kind=work.kind,
        name=work.name,
        stream=work.stream,
        start_us=work.start_us + shift_us,
        dur_us=work.dur_us,
    )


def _collective_op(call: Call, step: int, shift_us: float, phases: Phases, *, group: str, size: int) -> Op:
    p2p = call.kind is Collective.SEND_RECV
    return Op(
        id=0,
        step=step,
        phase=phases.at(call.issued_tid, call.issued_us),
        kind=Kind.P2P if p2p else Kind.COLLECTIVE,
        name=str(call.kind),
        stream=call.stream,
        start_us=call.start_us + shift_us,
        dur_us=call.dur_us,
        collective=None if p2p else call.kind,
        group=group,
        bytes=size,
        dtype=call.dtype,
        splits=tuple(n * call.width for n in call.splits) if call.splits else None,
        peer=call.peer,
    )


def _bytes(call: Call, members: int) -> int:
    """The size S of a call in a group of `members` ranks, as in nccl-tests (dessim.trace.schema)."""
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
    """The ops with ids in order and names that are unique in a step."""
    counts: Counter[tuple[int, str]] = Counter()
    numbered = []
    for index, op in enumerate(ops):
        counts[op.step, op.name] += 1
        count = counts[op.step, op.name]
        name = op.name if op.kind is Kind.COLLECTIVE or count == 1 else f"{op.name} #{count}"
        numbered.append(replace(op, id=index, name=name, splits=op.splits or None))
    return numbered
