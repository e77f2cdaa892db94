"""Reads what torch dispatches: kind, group, bytes and splits of a collective; memory traffic of other operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import prod
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

# Operators that read or write only those elements of their first argument that an index selects.
_BY_DIMENSION = frozenset({"index_select", "index_copy_", "index_fill_", "index_add_"})  # index `args[2]` of `args[1]`
_SELECTING = frozenset(
    {"index_select", "index", "gather", "take", "embedding", "_embedding_bag", "_embedding_bag_forward_only"}
)
_PUTTING = frozenset({"index_put_", "_index_put_impl_"})
_ACCUMULATES = 3  # argument of these; they add then
_REPLACING = frozenset({"index_copy_", "index_fill_", "scatter_"}) | _PUTTING
_ADDING = frozenset({"index_add_", "scatter_add_"})


@cache
def touches_memory(func: Any) -> bool:
    """Whether an operator reads or writes the elements of a tensor."""
    return not func.is_view and func._overloadpacket.__name__ not in _FREE


def touched_bytes(func: Any, args: Sequence[Any], out: Any) -> int:
    """Bytes that an operator reads and writes; of a table that it indexes, only those of the selected elements."""
    name = func._overloadpacket.__name__
    if name in _SELECTING:
        return bytes_of(args[1:]) + _selected_bytes(name, args, out) + bytes_of(out)
    if name in _REPLACING or name in _ADDING:
        # `out` is the table itself. Adding reads the elements before it writes them.
        adds = name in _ADDING or (name in _PUTTING and len(args) > _ACCUMULATES and bool(args[_ACCUMULATES]))
        return bytes_of(args[1:]) + _selected_bytes(name, args, out) * (2 if adds else 1)
    return bytes_of(args) + bytes_of(out)


def _selected_bytes(name: str, args: Sequence[Any], out: Any) -> int:
    """Bytes of the elements of table `args[0]` that an indexing operator reads or writes, once for each index."""
    table: Tensor = args[0]
    if name.startswith("_embedding_bag"):
        selected = args[1].numel() * table.shape[-1]
    elif name in _BY_DIMENSION:
        length = table.shape[args[1]] if table.dim() else 1
        selected = args[2].numel() * (table.numel() // max(length, 1))
    elif name in _PUTTING:
        given = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in given):
            selected = table.numel()  # a mask reads all of its own size
        else:
            indices = torch.broadcast_shapes(*(index.shape for index in given))
            lengths = [length for length, index in zip(table.shape, args[1], strict=False) if index is not None]
            selected = prod(indices) * (table.numel() // max(prod(lengths), 1))
    elif name.startswith("scatter"):
        selected = args[2].numel()
    else:
        selected = next(tensors_in(out)).numel()
    return selected * table.element_size()


def bytes_of(value: Any) -> int:
    """Bytes of all tensors in `value`: a tensor, or lists and tuples of them, nested to any depth."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, list | tuple):
        return sum(map(bytes_of, value))
    return 0


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
