"""Encoded values, as bytes of a message and as the message's parts.

message = header | rows, all of the same size | entries, one for each non-zero value
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
    rows      [n, b], message by message
    entries   [z, e], row by row
    splits    number of rows in each message
    filled    number of entries in each message; empty for codecs without entries
    per_row   int64 [n], number of entries of each row; only on the sending side
    """

    header: Tensor
    rows: Tensor
    entries: Tensor
    splits: tuple[int, ...]
    filled: tuple[int, ...] = ()
    per_row: Tensor | None = None

    def packed(self, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Cut one message into several with `splits[i]` rows each: their bytes, concatenated, and the size of each."""
        rows = self.rows.split(list(splits))
        entries: Sequence[Tensor] = [self.entries] * len(splits)  # all empty for codecs without entries
        if self.per_row is not None:
            entries = self.entries.split([int(counts.sum()) for counts in self.per_row.split(list(splits))])
        parts = [(self.header[0], r.reshape(-1), e.reshape(-1)) for r, e in zip(rows, entries, strict=True)]
        sizes = [sum(map(len, part)) for part in parts]
        if not self.header.numel() and self.per_row is None:
            return self.rows.reshape(-1), sizes
        return torch.cat([piece for part in parts for piece in part]), sizes

    @classmethod
    def unpacked(cls, messages: Sequence[Tensor], splits: Sequence[int], sizes: tuple[int, int, int]) -> Encoded:
        """From received messages with `splits[i]` rows each; `sizes` as `Codec.sizes` returns them."""
        h, b, e = sizes
        ends = [h + n * b for n in splits]
        header = torch.stack([m[:h] for m in messages])
        rows = torch.cat([m[h:end] for m, end in zip(messages, ends, strict=True)]).view(sum(splits), b)
        if not e:
            return cls(header, rows, rows.new_empty(0, 0), tuple(splits))
        tails = [m[end:].view(-1, e) for m, end in zip(messages, ends, strict=True)]
        return cls(header, rows, torch.cat(tails), tuple(splits), tuple(len(tail) for tail in tails))


def as_bytes(values: Tensor) -> Tensor:
    """[n, w] -> uint8 [n, w * itemsize]."""
    return (
        values.contiguous().view(torch.uint8).view(len(values), -1) if values.numel() else no_bytes(values, len(values))
    )


def as_values(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `as_bytes`: [n, w]. Copies, because values inside a message may not be aligned."""
    if not raw.numel():
        return raw.new_empty(len(raw), raw.shape[1] // dtype.itemsize, dtype=dtype)
    return raw.clone(memory_format=torch.contiguous_format).view(-1).view(dtype).view(len(raw), -1)


def no_bytes(like: Tensor, rows: int = 0) -> Tensor:
    """uint8 [rows, 0] on the device of `like`."""
    return like.new_empty(rows, 0, dtype=torch.uint8)
