"""The trace schema: the contract between the trainer, which records, and the simulator, which replays.

A trace is a folder `NAME.trace/` with `trace.json` (the `Header`) and one file `rank-00000.jsonl.gz` per rank, with one
`Op` per line. Times are microseconds on the rank's own clock; add `Header.clock_offset_us[r]` to compare ranks. Sizes
are those that the program requested, not the bytes on the wire.

`Op.bytes` is S as in nccl-tests, so that algbw = S / t and a rank sends `sent_factor(collective, n) * S` bytes:

    all_reduce, broadcast, reduce   the tensor
    reduce_scatter, scatter         the whole input (n chunks)
    all_gather, gather              the whole output (n chunks)
    all_to_all                      the whole input of the rank, its own share included
    send_recv                       the data that each rank sends to the next
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from dessim.trace.json_fields import floats, integer, integers, member, number, numbers, text

SCHEMA_VERSION = 1
PREFETCH = "prefetch"  # the stream of ops that run concurrently with a step and prepare the next one
MAX_RANKS = 1_000_000


class Phase(StrEnum):
    """The phase of a training step to which an op belongs."""

    INPUT = "input"
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


class Kind(StrEnum):
    """The kind of resource that an op uses."""

    COMPUTE = "compute"
    COLLECTIVE = "collective"
    P2P = "p2p"
    COPY = "copy"


class Collective(StrEnum):
    """Collective operations, named as in torch.distributed."""

    ALL_REDUCE = "all_reduce"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_GATHER = "all_gather"
    ALL_TO_ALL = "all_to_all"
    BROADCAST = "broadcast"
    REDUCE = "reduce"
    GATHER = "gather"
    SCATTER = "scatter"
    SEND_RECV = "send_recv"
    BARRIER = "barrier"


COLLECTIVES = tuple(str(op) for op in Collective if op is not Collective.BARRIER)
"""Collectives that move data, and so can be simulated on their own."""


def sent_factor(collective: Collective, n: int) -> float:
    """Bytes that a rank sends per byte of S in a bandwidth-optimal algorithm; nccl-tests' busbw / algbw."""
    if n <= 1:
        return 0.0
    match collective:
        case Collective.ALL_REDUCE:
            return 2 * (n - 1) / n
        case Collective.BROADCAST | Collective.REDUCE | Collective.SEND_RECV:
            return 1.0
        case Collective.BARRIER:
            return 0.0
    return (n - 1) / n


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of one rank in one step.

    `name` is the op's name in the strategy's plan, unique within a step. `deps` are the ids of earlier ops of the same
    rank that must have ended. `size`, `flops_size` and `mem_size` are formulas for `bytes`, `flops` and `mem_bytes`;
    `vars` holds values of symbols for this op only, such as the number of ids that this rank drew in this step, and
    takes precedence over `Header.symbols`. `splits` are the bytes sent to each member of the group in an uneven
    all_to_all. `cpu_us` is the CPU time of a compute op's thread; it is less than `dur_us` where the thread shared its
    core or waited, and 0 where it is not known.
    """

    id: int
    step: int
    phase: Phase
    kind: Kind
    name: str
    stream: str
    start_us: float
    dur_us: float
    deps: tuple[int, ...] = ()
    collective: Collective | None = None
    group: str | None = None
    bytes: int = 0
    dtype: str | None = None
    splits: tuple[int, ...] | None = None
    peer: int | None = None
    size: str | None = None
    vars: Mapping[str, float] = field(default_factory=dict)
    flops: int = 0
    mem_bytes: int = 0
    flops_size: str | None = None
    mem_size: str | None = None
    cpu_us: float = 0.0

    @property
    def end_us(self) -> float:
        return self.start_us + self.dur_us

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; those at their default are left out."""
        json: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None or value == () or value == {} or (f.name in _ZERO_DEFAULT and value == 0):
                continue
            json[f.name] = _plain(value)
        return json

    @classmethod
    def from_json(cls, raw: object) -> Op:
        """Read an op from untrusted JSON. Raises ValueError naming the key."""
        if not isinstance(raw, dict):
            raise ValueError("an op must be a JSON object")
        unknown = sorted(set(raw) - _OP_FIELDS)
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}")
        op = cls(
            id=integer(raw, "id"),
            step=integer(raw, "step"),
            phase=member(raw, "phase", Phase),
            kind=member(raw, "kind", Kind),
            name=text(raw, "name"),
            stream=text(raw, "stream"),
            start_us=number(raw, "start_us"),
            dur_us=number(raw, "dur_us"),
            deps=integers(raw, "deps") or (),
            collective=member(raw, "collective", Collective) if "collective" in raw else None,
            group=text(raw, "group") if "group" in raw else None,
            bytes=integer(raw, "bytes", 0),
            dtype=text(raw, "dtype") if "dtype" in raw else None,
            splits=integers(raw, "splits"),
            peer=integer(raw, "peer") if "peer" in raw else None,
            size=text(raw, "size") if "size" in raw else None,
            vars=numbers(raw.get("vars", {}), "vars"),
            flops=integer(raw, "flops", 0),
            mem_bytes=integer(raw, "mem_bytes", 0),
            flops_size=text(raw, "flops_size") if "flops_size" in raw else None,
            mem_size=text(raw, "mem_size") if "mem_size" in raw else None,
            cpu_us=number(raw, "cpu_us") if "cpu_us" in raw else 0.0,
        )
        if min(op.dur_us, op.cpu_us, op.bytes, op.flops, op.mem_bytes, op.id, op.step) < 0:
            raise ValueError("id, step, dur_us, cpu_us, bytes, flops and mem_bytes must not be negative")
        if op.kind is Kind.COLLECTIVE and (op.collective is None or op.group is None):
            raise ValueError("a collective op needs 'collective' and 'group'")
        return op


@dataclass(frozen=True, slots=True)
class Header:
    """The recorded job: its model, groups, hardware and software, and the steps that were recorded.

    `symbols` are the job's sizes by their names in formulas (dessim.workload.symbols), `model` is the content of the
    model file, and `groups` maps the name of a group to its global ranks. `recorded_steps` are the steps in the rank
    files. `step_us` holds the wall time of steps in microseconds, from the last rank's start to the last rank's end:
    `recorded` for the steps in the rank files, and `plain` for other steps of the same run without the recorder, with
    which the replay is compared. `complete` is False while the run records and after it has crashed.
    """

    name: str
    world_size: int
    backend: str
    device: str
    strategy: str
    model: Mapping[str, Any]
    symbols: Mapping[str, float]
    groups: Mapping[str, tuple[int, ...]]
    warmup_steps: tuple[int, ...]
    recorded_steps: tuple[int, ...]
    clock_offset_us: tuple[float, ...]
    step_us: Mapping[str, tuple[float, ...]]
    software: Mapping[str, str]
    complete: bool = True
    schema_version: int = SCHEMA_VERSION

    @property
    def times_kernels(self) -> bool:
        """Whether collectives are recorded as NCCL's kernels, without their launch, as profilers do."""
        return self.backend == "nccl" and "imported" in self.software

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, the version first."""
        names = ["schema_version", *(f.name for f in fields(self) if f.name != "schema_version")]
        return {name: _plain(getattr(self, name)) for name in names}

    @classmethod
    def from_json(cls, raw: object) -> Header:
        """Read a header from untrusted JSON. Raises ValueError naming the key."""
        if not isinstance(raw, dict):
            raise ValueError("trace.json must hold a JSON object")
        version = raw.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema_version {version!r}; this dessim reads version {SCHEMA_VERSION}")
        unknown = sorted(set(raw) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}")
        world_size = integer(raw, "world_size")
        if not 1 <= world_size <= MAX_RANKS:
            raise ValueError(f"world_size {world_size} must be between 1 and {MAX_RANKS}")
        groups = _groups(raw.get("groups"), world_size)
        offsets = floats(raw, "clock_offset_us")
        if len(offsets) != world_size:
            raise ValueError(f"'clock_offset_us' has {len(offsets)} entries for {world_size} ranks")
        step_us = raw.get("step_us", {})
        if not all(isinstance(v, dict) for v in (step_us, raw.get("model"), raw.get("software"))):
            raise ValueError("'step_us', 'model' and 'software' must be objects")
        return cls(
            name=text(raw, "name"),
            world_size=world_size,
            backend=text(raw, "backend"),
            device=text(raw, "device"),
            strategy=text(raw, "strategy"),
            model=raw["model"],
            symbols=numbers(raw.get("symbols"), "symbols"),
            groups=groups,
            warmup_steps=integers(raw, "warmup_steps") or (),
            recorded_steps=integers(raw, "recorded_steps") or (),
            clock_offset_us=offsets,
            step_us={str(k): floats(step_us, k) for k in step_us},
            software={str(k): str(v) for k, v in raw["software"].items()},
            complete=bool(raw.get("complete", False)),
        )


def _groups(raw: object, world_size: int) -> dict[str, tuple[int, ...]]:
    if not isinstance(raw, dict):
        raise ValueError("'groups' must map a group's name to its ranks")
    groups = {str(name): integers(raw, name) or () for name in raw}
    for name, ranks in groups.items():
        if any(not 0 <= r < world_size for r in ranks) or len(set(ranks)) != len(ranks):
            raise ValueError(f"group {name!r} must hold distinct ranks between 0 and {world_size - 1}")
    return groups


_OP_FIELDS = frozenset(f.name for f in fields(Op))
_ZERO_DEFAULT = frozenset({"bytes", "flops", "mem_bytes", "cpu_us"})


def _plain(value: Any) -> Any:
    """A field as JSON values."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value
