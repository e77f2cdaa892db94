"""Reads what torch dispatches: kind, group, bytes and splits of a collective; memory traffic of other operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import describe_group
from des_ref.recording.open_op import OpenOp
from dessim.trace.schema import Collective, Op

# c10d operator -> the collective, and which argument holds S (dessim.trace.schema).
COLLECTIVES: dict[str, tuple[Collective, int]] = {
    "allreduce_": (Collective.ALL_REDUCE, 0),
    "allreduce_coalesced_": (Collective.ALL_REDUCE, 0),
    "_allgather_base_": (Collective.ALL_GATHER, 0),
    "allgather_": (Collective.ALL_GATHER, 0),
    "allgather_into_tensor_coalesced_": (Collective.ALL_GATHER, 0),
    "_reduce_scatter_base_": (Collective.REDUCE_SCATTER, 1),
    "reduce_scatter_": (Collective.REDUCE_SCATTER, 1),
    "reduce_scatter_tensor_coalesced_": (Collective.REDUCE_SCATTER, 1),
    "alltoall_base_": (Collective.ALL_TO_ALL, 1),
    "alltoall_": (Collective.ALL_TO_ALL, 1),
    "broadcast_": (Collective.BROADCAST, 0),
    "reduce_": (Collective.REDUCE, 0),
    "gather_": (Collective.GATHER, 1),
    "scatter_": (Collective.SCATTER, 0),
    "barrier": (Collective.BARRIER, 0),
}
_IN_SPLITS = 4  # argument of alltoall_base_
# Point-to-point messages, from which comm builds some collectives. Argument 0 is the tensor.
MESSAGES = frozenset({"send", "recv_"})
SEND = "send"
# Operators that touch no memory beyond a tensor's description.
_FREE = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "lift_fresh"})


def touches_memory(func: Any) -> bool:
    """Whether an operator reads or writes the elements of a tensor."""
    return not func.is_view and func._overloadpacket.__name__ not in _FREE


def bytes_of(value: Any) -> int:
    """Bytes of all tensors in `value`."""
    return sum(t.numel() * t.element_size() for t in tensors_in(value))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in `value`: a tensor, or lists and tuples of them, nested to any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def described(op: Op, entry: OpenOp) -> tuple[Op, tuple[int, ...]]:
    """`op` with the collective, group, bytes, dtype and splits of the call in `entry`; and the ranks of the group.

    For a collective that is built from messages, S follows from the bytes that this rank sent: a chunk to every other
    rank.
    """
    assert entry.call is not None
    name, args = entry.call
    collective, position = (entry.built_as, 0) if entry.built_as is not None else COLLECTIVES[name]
    boxed = (arg for arg in args if isinstance(arg, torch.ScriptObject))
    group, ranks = next(g for g in map(describe_group, boxed) if g is not None)
    payload = args[position]
    if entry.built_as is not None:
        size = entry.sent * len(ranks) // (len(ranks) - 1)
    else:
        size = 0 if collective is Collective.BARRIER else bytes_of(payload)
    dtype = next((str(t.dtype).removeprefix("torch.") for t in tensors_in(payload)), None)
    splits = _splits(name, args, payload, len(ranks))
    return replace(op, collective=collective, group=group, bytes=size, dtype=dtype, splits=splits), ranks


def _splits(name: str, args: Sequence[Any], payload: Any, ranks: int) -> tuple[int, ...] | None:
    """Bytes that an all-to-all sends to each rank; None for other calls."""
    if name == "alltoall_base_":
        entry_bytes = bytes_of(payload) // max(len(payload), 1)
        entries = args[_IN_SPLITS] or [len(payload) // ranks] * ranks
        return tuple(int(count) * entry_bytes for count in entries)
    if name == "alltoall_":
        return tuple(bytes_of(t) for t in payload)
    return None
