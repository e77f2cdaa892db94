"""What a trace says: the contract between the trainer that records and the simulator that replays.

A trace is a folder `NAME.trace/`: `trace.json` (the `Header`) and one `rank-00000.jsonl.gz` a rank, one `Op` a line.
Times are microseconds on the rank's own clock; `Header.clock_offset_us[r]` is added to compare ranks.
Sizes are logical: what the collective was asked to do, not what the wire carried.

`Op.bytes` follows nccl-tests' S, so that algbw = S / t and a rank sends `sent_factor(collective, n) * S` bytes:

    all_reduce, broadcast, reduce   the tensor
    reduce_scatter, scatter         the whole input (n chunks)
    all_gather, gather              the whole output (n chunks)
    all_to_all                      the whole input of the rank, its own share included
    send_recv                       what each rank sends to the next
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 1
PREFETCH = "prefetch"  # the stream of ops that run beside a step and serve the next one


class Phase(StrEnum):
    """Where in a training step an op belongs."""

    INPUT = "input"
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


class Kind(StrEnum):
    """What kind of resource an op needs."""

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


def sent_factor(collective: Collective, n: int) -> float:
    """Bytes a rank sends per byte of S in a bandwidth-optimal algorithm; busbw / algbw as nccl-tests defines it."""
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

    `name` is the op's name in the strategy's plan, unique within a step. `deps` are ids of earlier ops of the same rank
    that must have ended. `size`, `flops_size`, `mem_size` are formulas for `bytes`, `flops`, `mem_bytes`; `vars` gives
    the symbols whose value belongs to this op alone (the ids this rank drew in this step), over `Header.symbols`.
    `splits` are the bytes sent to each member of the group, for an uneven all_to_all. `cpu_us` is the time that a
    compute op's thread really ran: less than `dur_us` where it had to share its core, or waited; 0: not known.
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
        """Plain values; fields at their default are left out."""
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None or value == () or value == {} or (f.name in _ZERO_DEFAULT and value == 0):
                continue
            out[f.name] = _plain(value)
        return out

    @classmethod
    def from_json(cls, raw: object) -> Op:
        """Checked construction from untrusted JSON. Raises ValueError naming the key."""
        if not isinstance(raw, dict):
            raise ValueError("an op must be a JSON object")
        unknown = sorted(set(raw) - _OP_FIELDS)
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}")
        op = cls(
            id=_int(raw, "id"),
            step=_int(raw, "step"),
            phase=_enum(raw, "phase", Phase),
            kind=_enum(raw, "kind", Kind),
            name=_str(raw, "name"),
            stream=_str(raw, "stream"),
            start_us=_number(raw, "start_us"),
            dur_us=_number(raw, "dur_us"),
            deps=_ints(raw, "deps") or (),
            collective=_enum(raw, "collective", Collective) if "collective" in raw else None,
            group=_str(raw, "group") if "group" in raw else None,
            bytes=_int(raw, "bytes", 0),
            dtype=_str(raw, "dtype") if "dtype" in raw else None,
            splits=_ints(raw, "splits"),
            peer=_int(raw, "peer") if "peer" in raw else None,
            size=_str(raw, "size") if "size" in raw else None,
            vars=numbers(raw.get("vars", {}), "vars"),
            flops=_int(raw, "flops", 0),
            mem_bytes=_int(raw, "mem_bytes", 0),
            flops_size=_str(raw, "flops_size") if "flops_size" in raw else None,
            mem_size=_str(raw, "mem_size") if "mem_size" in raw else None,
            cpu_us=_number(raw, "cpu_us") if "cpu_us" in raw else 0.0,
        )
        if min(op.dur_us, op.cpu_us, op.bytes, op.flops, op.mem_bytes, op.id, op.step) < 0:
            raise ValueError("id, step, dur_us, cpu_us, bytes, flops and mem_bytes must not be negative")
        if op.kind is Kind.COLLECTIVE and (op.collective is None or op.group is None):
            raise ValueError("a collective op needs 'collective' and 'group'")
        return op


@dataclass(frozen=True, slots=True)
class Header:
    """What was run, where, and how the recording went.

    `symbols` are the job's sizes by their names in formulas (see dessim.workload.symbols); `model` is the model file's
    content; `groups` maps a group's name to its global ranks. `recorded_steps` are the steps in the rank files;
    `step_us` holds wall times in microseconds a step, from the last rank's start to the last rank's end: `recorded`
    of the steps in the rank files, `plain` of other steps of the same run without the recorder, the measurement a
    replay is held against.
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

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"schema_version": self.schema_version}
        for f in fields(self):
            if f.name != "schema_version":
                out[f.name] = _plain(getattr(self, f.name))
        return out

    @classmethod
    def from_json(cls, raw: object) -> Header:
        """Checked construction from untrusted JSON. Raises ValueError naming the key."""
        if not isinstance(raw, dict):
            raise ValueError("trace.json must hold a JSON object")
        version = raw.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema_version {version!r}; this dessim reads version {SCHEMA_VERSION}")
        unknown = sorted(set(raw) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}")
        world_size = _int(raw, "world_size")
        if not 1 <= world_size <= MAX_RANKS:
            raise ValueError(f"world_size {world_size} must be between 1 and {MAX_RANKS}")
        groups = raw.get("groups")
        if not isinstance(groups, dict):
            raise ValueError("'groups' must map a group's name to its ranks")
        members = {str(k): _ints(groups, k) or () for k in groups}
        for name, ranks in members.items():
            if any(not 0 <= r < world_size for r in ranks) or len(set(ranks)) != len(ranks):
                raise ValueError(f"group {name!r} must hold distinct ranks between 0 and {world_size - 1}")
        offsets = _floats(raw, "clock_offset_us")
        if len(offsets) != world_size:
            raise ValueError(f"'clock_offset_us' has {len(offsets)} entries for {world_size} ranks")
        step_us = raw.get("step_us", {})
        if not all(isinstance(v, dict) for v in (step_us, raw.get("model"), raw.get("software"))):
            raise ValueError("'step_us', 'model' and 'software' must be objects")
        return cls(
            name=_str(raw, "name"),
            world_size=world_size,
            backend=_str(raw, "backend"),
            device=_str(raw, "device"),
            strategy=_str(raw, "strategy"),
            model=raw["model"],
            symbols=numbers(raw.get("symbols"), "symbols"),
            groups=members,
            warmup_steps=_ints(raw, "warmup_steps") or (),
            recorded_steps=_ints(raw, "recorded_steps") or (),
            clock_offset_us=offsets,
            step_us={str(k): _floats(step_us, k) for k in step_us},
            software={str(k): str(v) for k, v in raw["software"].items()},
            complete=bool(raw.get("complete", False)),
        )


MAX_RANKS = 1_000_000
_OP_FIELDS = frozenset(f.name for f in fields(Op))
_ZERO_DEFAULT = frozenset({"bytes", "flops", "mem_bytes", "cpu_us"})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def _number(raw: Mapping[str, Any], key: str) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e18:
        raise ValueError(f"{key!r} must be a finite number, not {value!r}")
    return float(value)


def _int(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(f"{key!r} must be a whole number, not {value!r}")
    return value


def _str(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value or len(value) > 1000:
        raise ValueError(f"{key!r} must be a short text, not {value!r}")
    return value


def _ints(raw: Mapping[str, Any], key: str) -> tuple[int, ...] | None:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in value):
        raise ValueError(f"{key!r} must be a list of whole numbers")
    return tuple(value)


def _floats(raw: Mapping[str, Any], key: str) -> tuple[float, ...]:
    value = raw.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{key!r} must be a list of numbers")
    return tuple(_number({key: v}, key) for v in value)


def numbers(raw: object, key: str) -> dict[str, float]:
    """A mapping of names to finite numbers. Raises ValueError naming `key`."""
    if not isinstance(raw, dict):
        raise ValueError(f"{key!r} must map names to numbers")
    return {str(k): _number(raw, k) for k in raw}


def _enum(raw: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    try:
        return kind(raw.get(key))
    except ValueError:
        raise ValueError(f"{key!r} must be one of {', '.join(str(k) for k in kind)}, not {raw.get(key)!r}") from None
