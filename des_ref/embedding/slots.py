"""An open-addressing index of fixed size: where in a list of keys a key stands.

A slot is an int32: 0 empty, -1 left by a key that is gone, else 1 + the number of the key. A search starts at the top
bits of a multiplicative hash and goes on slot by slot (linear probing) until it meets the key or an empty slot. Slots
hold numbers, not keys, so every 64-bit key is allowed; what is compared is `keys[number]`.

Every search is a loop over probe *rounds*: in each, all keys still looking read their next slot at once. At half load
a key that is there takes 1.5 slots in the mean (Knuth, volume 3, 6.4), and each round is smaller than the one before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.embedding.growing import zeros
from des_ref.hashing import GOLDEN

_EMPTY, _GONE = 0, -1
MAX_LOAD = 0.5


class Slots:
    """`size` slots, a power of two. `used` counts the keys ever placed: those that are gone still lengthen searches."""

    def __init__(self, size: int, device: torch.device) -> None:
        assert size & (size - 1) == 0
        self._entries = zeros(size, torch.int32, device)
        self.size, self._shift, self._mask = size, 64 - (size.bit_length() - 1), size - 1
        self._has_gaps = False
        self._touched = 0
        self.used = 0

    @property
    def fullness(self) -> float:
        """The share of its room that is used."""
        return self.used / (MAX_LOAD * self.size)

    def has_room(self, count: int) -> bool:
        return self.used + count <= MAX_LOAD * self.size

    def touch(self, count: int) -> None:
        """Get memory for the next `count` slots before anything is placed."""
        end = min(self._touched + count, self.size)
        self._entries[self._touched : end] = _EMPTY
        self._touched = end

    def find(self, ids: Tensor, keys: Tensor) -> Tensor:
        """Numbers of ids [n] in `keys`, int64, -1 where there is none. Ids may repeat."""
        return self._search(ids, keys)[1].to(torch.int64).sub_(1)

    def place(self, ids: Tensor, numbers: Tensor) -> None:
        """Enter the numbers [n] of absent, different ids. Of several at one free slot any may win; the rest go on."""
        self.used += len(ids)
        slots, entries = self.home(ids), (numbers + 1).to(torch.int32)
        while len(slots):
            free = (self._entries.index_select(0, slots) <= _EMPTY).nonzero().squeeze(1)
            self._entries.index_copy_(0, slots.index_select(0, free), entries.index_select(0, free))
            left = (self._entries.index_select(0, slots) != entries).nonzero().squeeze(1)
            entries = entries.index_select(0, left)
            slots = slots.index_select(0, left).add_(1).bitwise_and_(self._mask)

    def remove(self, ids: Tensor, keys: Tensor) -> None:
        """Take ids [n] out, those that are in."""
        slots, entries = self._search(ids, keys)
        self._entries[slots[entries > _EMPTY]] = _GONE
        self._has_gaps = True

    def home(self, ids: Tensor) -> Tensor:
        """Where searches for ids [n] start."""
        # Ids are often sequential or share low bits (all of one owner): the top bits of the product depend on all.
        mixed = ids.bitwise_xor(ids >> 32).mul_(GOLDEN)
        return mixed.bitwise_right_shift_(self._shift).bitwise_and_(self._mask)

    def _search(self, ids: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Where the search for each id ended, and the entry there: its own, or _EMPTY."""
        slots = self.home(ids)
        entries = self._entries.index_select(0, slots)
        left = self._go_on(entries, ids, keys)
        while len(left):
            following = slots.index_select(0, left).add_(1).bitwise_and_(self._mask)
            found = self._entries.index_select(0, following)
            slots.index_copy_(0, left, following)
            entries.index_copy_(0, left, found)
            left = left.index_select(0, self._go_on(found, ids.index_select(0, left), keys))
        return slots, entries

    def _go_on(self, entries: Tensor, ids: Tensor, keys: Tensor) -> Tensor:
        """Which of the searches that met `entries` [n] go on."""
        is_other = keys.index_select(0, entries.sub(1).clamp_min_(0)) != ids
        if self._has_gaps:
            is_other |= entries == _GONE
        return is_other.logical_and_(entries != _EMPTY).nonzero().squeeze(1)
