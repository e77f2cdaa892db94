"""What a call that torch dispatches says of itself: a collective its kind, group, bytes and splits; any other operator
the memory that it touches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import describe_group
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
# Messages to and from single ranks, of which collectives are made; argument 0 is the tensor.
MESSAGES, SENT = frozenset({"send", "recv_"}), "send"
# Operators that touch no memory beyond bookkeeping.
_FREE = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "lift_fresh"})


def touches_memory(func: Any) -> bool:
    """Whether an operator reads or writes more than the description of a tensor."""
    return not func.is_view and func._overloadpacket.__name__ not in _FREE


def bytes_of(value: Any) -> int:
    """Bytes of all tensors in `value`: a tensor, or lists and tuples of such, however deep."""
    return sum(t.numel() * t.element_size() for t in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def described(op: Op, name: str, args: Sequence[Any], made: Collective | None, sent: int) -> tuple[Op, tuple[int, ...]]:
    """The op with what its c10d call says: collective, group, bytes, dtype, splits; and the group's ranks.

    Of a collective `made` of messages, of which the call is one, S is what makes a rank send `sent` bytes:
    a chunk to every other rank.
    """
    collective, at = (made, 0) if made is not None else COLLECTIVES[name]
    boxed = (arg for arg in args if isinstance(arg, torch.ScriptObject))
    group, ranks = next(g for g in map(describe_group, boxed) if g is not None)
    payload = args[at]
    splits = None
    if name == "alltoall_base_":
        entry = bytes_of(payload) // max(len(payload), 1)
        shares = args[_IN_SPLITS] or [len(payload) // len(ranks)] * len(ranks)
        splits = tuple(int(share) * entry for share in shares)
    elif name == "alltoall_":
        splits = tuple(bytes_of(t) for t in payload)
    size = 0 if collective is Collective.BARRIER else bytes_of(payload)
    if made is not None:
        size = sent * len(ranks) // (len(ranks) - 1)
    dtype = next((str(t.dtype).removeprefix("torch.") for t in _tensors(payload)), None)
    return replace(op, collective=collective, group=group, bytes=size, dtype=dtype, splits=splits), ranks
