"""The vocabulary of Kineto's events: names of collectives and dtypes, shapes, splits and ranks in their arguments."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from dessim.trace.importers.kineto_file import Event
from dessim.trace.schema import MAX_RANKS, Collective

# Names in torch's c10d (torch/csrc/distributed/c10d), after `kind_of` has removed "_", "coalesced" and other suffixes.
_KINDS = {
    "allreduce": Collective.ALL_REDUCE,
    "reducescatter": Collective.REDUCE_SCATTER,
    "allgather": Collective.ALL_GATHER,
    "alltoall": Collective.ALL_TO_ALL,
    "alltoallv": Collective.ALL_TO_ALL,
    "broadcast": Collective.BROADCAST,
    "reduce": Collective.REDUCE,
    "gather": Collective.GATHER,
    "scatter": Collective.SCATTER,
    "barrier": Collective.BARRIER,
    "monitoredbarrier": Collective.BARRIER,
    "send": Collective.SEND_RECV,
    "recv": Collective.SEND_RECV,
    "recvanysource": Collective.SEND_RECV,
}
BYTES_PER_ELEMENT = {
    **{"double": 8, "long": 8, "longint": 8, "complexfloat": 8, "float": 4, "int": 4, "half": 2, "bfloat16": 2},
    **{"short": 2, "shortint": 2, "byte": 1, "char": 1, "bool": 1, "unsignedchar": 1, "signedchar": 1},
    **{"float8_e4m3fn": 1, "float8_e5m2": 1},
}
_TORCH_DTYPES = {
    **{"float": "float32", "double": "float64", "half": "float16", "int": "int32", "long": "int64", "longint": "int64"},
    **{"short": "int16", "shortint": "int16", "byte": "uint8", "unsignedchar": "uint8", "char": "int8"},
    **{"signedchar": "int8", "complexfloat": "complex64"},
}


def kind_of(name: str) -> Collective | None:
    """The collective of an event named `c10d::...`, `nccl:...` or `gloo:...`; None for any other event."""
    plain = name.lower().removeprefix("c10d::").removeprefix("nccl:").removeprefix("gloo:")
    plain = plain.split(" ")[0]  # as in "nccl:send 0->1"
    plain = re.sub(r"_into_tensor|_tensor|_coalesced|_oop|_base|_single|_", "", plain)
    return _KINDS.get(plain)


def elements(event: Event) -> list[int]:
    """The number of elements of each tensor argument, summed over a list of tensors; empty if shapes are missing."""
    counts = []
    arguments = event.args.get("Input Dims")
    for dims in arguments if isinstance(arguments, list) else ():
        if not isinstance(dims, list) or not dims:
            continue
        # A shape, a list of shapes, or a list of one such list.
        shapes = dims if isinstance(dims[0], list) else [dims]
        if shapes and shapes[0] and isinstance(shapes[0][0], list):
            shapes = shapes[0]
        if all(isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape) for shape in shapes):
            counts.append(sum(math.prod(shape) for shape in shapes))
    return counts


def input_types(event: Event) -> list[str]:
    """The types of an event's arguments; empty if they are missing."""
    types = event.args.get("Input type")
    return [str(t) for t in types] if isinstance(types, list) else []


def bytes_per_element(dtype: Any) -> int | None:
    """The size of one element; None for an unknown type."""
    return BYTES_PER_ELEMENT.get(_normalized(dtype))


def torch_dtype(dtype: Any) -> str:
    """A type by its name in torch: "float32" for "float", "int64" for "long int"."""
    return _TORCH_DTYPES.get(_normalized(dtype), _normalized(dtype))


def _normalized(dtype: Any) -> str:
    return str(dtype).lower().removeprefix("c10::").replace(" ", "")


def integers(text: Any) -> tuple[int, ...] | None:
    """A list of whole numbers, or its text. None if it is malformed, empty or truncated ("[0, 1, ...]")."""
    if isinstance(text, str):
        try:
            text = json.loads(text)
        except (ValueError, RecursionError):
            return None
    if not isinstance(text, list) or not text or not all(type(n) is int for n in text):
        return None
    return tuple(text)


def strided_ranks(first: Any, stride: Any, size: Any) -> tuple[int, ...] | None:
    """Ranks from their first, stride and number; None if these are missing or -1 (irregular groups in torch)."""
    if not all(type(n) is int for n in (first, stride, size)) or first < 0 or stride < 1 or not 1 <= size <= MAX_RANKS:
        return None
    return tuple(range(first, first + stride * size, stride))


def splits_in_elements(splits: tuple[int, ...] | None, inputs: int) -> tuple[int, ...] | None:
    """Splits, which count rows of a tensor of `inputs` elements, as numbers of elements; None if they do not match."""
    if splits is None or min(splits) < 0:
        return None
    rows = sum(splits)
    if rows == 0 or inputs % rows:
        return splits if rows == inputs else None
    return tuple(n * (inputs // rows) for n in splits)
