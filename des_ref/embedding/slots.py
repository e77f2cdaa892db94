"""An open-addressing index of fixed size that maps a key to its position in a list of keys.

A slot is an int32: 0 if empty, -1 (a tombstone) if its key was removed, else 1 + the number of the key. A search starts
at the top bits of a multiplicative hash and probes slot by slot (linear probing) until it finds the key or an empty
slot. Slots hold numbers, not keys, so every 64-bit key is allowed; the search compares `keys[number]`.

A batch of searches runs in *rounds*: in each, all unfinished searches read their next slot at once. At half load a
successful search reads 1.5 slots on average (Knuth, volume 3, 6.4), so every round is smaller than the one before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.embedding.growing import zeros
from des_ref.hashing import GOLDEN

_EMPTY = 0
_REMOVED = -1
MAX_LOAD = 0.5


class Slots:
    """`size` slots, a power of two. `used` counts all keys ever placed: removed ones still lengthen searches."""

    def __init__(self, size: int, device: torch.device) -> None:
        assert size & (size - 1) == 0
        self._entries = zeros(size, torch.int32, device)
        self.size = size
        self._shift = 64 - (size.bit_length() - 1)
        self._mask = size - 1
        self._has_removed = False
        self._touched = 0
        self.used = 0

    @property
    def fullness(self) -> float:
        """Used slots as a share of those that may be used at the maximum load."""
        return self.used / (MAX_LOAD * self.size)

    def has_room(self, count: int) -> bool:
        return self.used + count <= MAX_LOAD * self.size

    def touch(self, count: int) -> None:
        """Have the kernel provide memory for the next `count` slots before anything is placed."""
        end = min(self._touched + count, self.size)
        self._entries[self._touched : end] = _EMPTY
        self._touched = end

    def find(self, ids: Tensor, keys: Tensor) -> Tensor:
        """Numbers of `ids` [n] in `keys`, int64, -1 if absent. Ids may repeat."""
        return self._search(ids, keys)[1].to(torch.int64).sub_(1)

    def place(self, ids: Tensor, numbers: Tensor) -> None:
        """Enter the numbers [n] of distinct, absent ids. If several want a free slot, one wins; the rest probe on."""
        self.used += len(ids)
        slots = self.home(ids)
        entries = (numbers + 1).to(torch.int32)
        while len(slots):
            free = (self._entries.index_select(0, slots) <= _EMPTY).nonzero().squeeze(1)
            self._entries.index_copy_(0, slots.index_select(0, free), entries.index_select(0, free))
            unplaced = (self._entries.index_select(0, slots) != entries).nonzero().squeeze(1)
            entries = entries.index_select(0, unplaced)
            slots = slots.index_select(0, unplaced).add_(1).bitwise_and_(self._mask)

    def remove(self, ids: Tensor, keys: Tensor) -> None:
        """Remove those of `ids` [n] that are present."""
        slots, entries = self._search(ids, keys)
        self._entries[slots[entries > _EMPTY]] = _REMOVED
        self._has_removed = True

    def home(self, ids: Tensor) -> Tensor:
        """The slots at which searches for `ids` [n] start."""
        # Ids are often sequential, or share low bits because one worker owns them. The top bits of the product depend
        # on all bits of the id.
        mixed = ids.bitwise_xor(ids >> 32).mul_(GOLDEN)
        return mixed.bitwise_right_shift_(self._shift).bitwise_and_(self._mask)

    def _search(self, ids: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The slot at which the search for each id ended, and the entry there: the id's own, or _EMPTY."""
        slots = self.home(ids)
        entries = self._entries.index_select(0, slots)
        unfinished = self._unfinished(entries, ids, keys)
        while len(unfinished):
            following = slots.index_select(0, unfinished).add_(1).bitwise_and_(self._mask)
            found = self._entries.index_select(0, following)
            slots.index_copy_(0, unfinished, following)
            entries.index_copy_(0, unfinished, found)
            still = self._unfinished(found, ids.index_select(0, unfinished), keys)
            unfinished = unfinished.index_select(0, still)
        return slots, entries

    def _unfinished(self, entries: Tensor, ids: Tensor, keys: Tensor) -> Tensor:
        """Indices of the searches that read `entries` [n] and must probe on."""
        is_other = keys.index_select(0, entries.sub(1).clamp_min_(0)) != ids
        if self._has_removed:
            is_other |= entries == _REMOVED
        return is_other.logical_and_(entries != _EMPTY).nonzero().squeeze(1)
