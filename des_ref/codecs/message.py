"""Encoded values, as bytes and in the parts that they are made of.

message     header | rows, as many bytes each | entries, of values that are not zero
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Encoded:
    """One or more messages, all uint8.

    header    [messages, h]
    rows      [n, b], those of the first message first
    entries   [z, e], those of the first row first
    splits    how many of the rows each message has
    filled    how many of the entries each message has; nothing where it has none
    per_row   int64 [n], how many each row has, on the side that sends
    """

    header: Tensor
    rows: Tensor
    entries: Tensor
    splits: tuple[int, ...]
    filled: tuple[int, ...] = ()
    per_row: Tensor | None = None

    def packed(self, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        """One message turned into as many as there are `splits`, so many rows each: all bytes, and each one's size."""
        rows, counts = self.rows.split(list(splits)), [0] * len(splits)
        if self.per_row is not None:
            counts = [int(part.sum()) for part in self.per_row.split(list(splits))]
        entries = self.entries.split(counts) if self.per_row is not None else [self.entries] * len(splits)
        parts = [(self.header[0], r.reshape(-1), e.reshape(-1)) for r, e in zip(rows, entries, strict=True)]
        sizes = [sum(map(len, part)) for part in parts]
        if not self.header.numel() and self.per_row is None:
            return self.rows.reshape(-1), sizes
        return torch.cat([piece for part in parts for piece in part]), sizes

    @classmethod
    def unpacked(cls, messages: Sequence[Tensor], splits: Sequence[int], sizes: tuple[int, int, int]) -> Encoded:
        """From messages of so many rows each; `sizes`: bytes of a header, of a row, of an entry (0: there are none)."""
        h, b, e = sizes
        ends = [h + n * b for n in splits]
        header = torch.stack([m[:h] for m in messages])
        rows = torch.cat([m[h:end] for m, end in zip(messages, ends, strict=True)]).view(sum(splits), b)
        if not e:
            return cls(header, rows, rows.new_empty(0, 0), tuple(splits))
        tails = [m[end:].view(-1, e) for m, end in zip(messages, ends, strict=True)]
        return cls(header, rows, torch.cat(tails), tuple(splits), tuple(len(tail) for tail in tails))


def as_bytes(values: Tensor) -> Tensor:
    """[n, w] -> uint8 [n, w * bytes of a value]."""
    return (
        values.contiguous().view(torch.uint8).view(len(values), -1) if values.numel() else no_bytes(values, len(values))
    )


def as_values(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """The other way, [n, w]. Copies, because bytes out of a message need not lie at a multiple of a value's size."""
    if not raw.numel():
        return raw.new_empty(len(raw), raw.shape[1] // dtype.itemsize, dtype=dtype)
    return raw.clone(memory_format=torch.contiguous_format).view(-1).view(dtype).view(len(raw), -1)


def no_bytes(like: Tensor, rows: int = 0) -> Tensor:
    """[rows, 0]."""
    return like.new_empty(rows, 0, dtype=torch.uint8)
