"""An open-addressing index of fixed size that maps a key to its position in a list of keys.

A slot is an int32: 0 if empty, -1 (a tombstone) if its key was removed, else 1 + the number of the key. A search starts
at the top bits of a multiplicative hash and probes slot by slot (linear probing) until it finds the key or an empty
slot. Slots hold numbers, not keys, so every 64-bit key is allowed; the search compares `keys[number]`.

A batch of searches runs in *rounds*: in each, all unfinished searches read their next slot at once. At half load a
successful search reads 1.5 slots on average (Knuth, volume 3, 6.4), so every round is smaller than the one before.

On an asynchronous device, each round would make the host wait, to learn which searches are unfinished. There a round
reads a *window* of slots, and the load is at most a quarter, so that nearly every batch needs one device sync.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.async_device import is_asynchronous
from des_ref.embedding.growing import zeros
from des_ref.hashing import GOLDEN

_EMPTY = 0
_REMOVED = -1
_WINDOW = 32  # slots; at a quarter load, one search in 10^8 reads more
_SEARCHES_AT_ONCE = 1 << 16  # a window takes about 1 KB of memory a search
_TRIES = 4  # of placing keys before a device sync; two keys seldom want the same slot


def max_load(device: torch.device) -> float:
    """The share of slots that may be used."""
    return 0.25 if is_asynchronous(device) else 0.5


class Slots:
    """`size` slots, a power of two. `used` counts all keys ever placed: removed ones still lengthen searches."""

    def __init__(self, size: int, device: torch.device) -> None:
        assert size & (size - 1) == 0
        self._is_asynchronous = is_asynchronous(device)
        # With windows, one extra slot receives the writes of keys that have no free slot yet.
        self._entries = zeros(size + self._is_asynchronous, torch.int32, device)
        self.size = size
        self._most_used = max_load(device) * size
        self._shift = 64 - (size.bit_length() - 1)
        self._mask = size - 1
        self._has_removed = False
        self._touched = 0
        self.used = 0

    @property
    def fullness(self) -> float:
        """Used slots as a share of those that may be used at the maximum load."""
        return self.used / self._most_used

    def has_room(self, count: int) -> bool:
        return self.used + count <= self._most_used

    def touch(self, count: int) -> None:
        """Have the kernel provide memory for the next `count` slots before anything is placed."""
        end = min(self._touched + count, self.size)
        self._entries[self._touched : end] = _EMPTY
        self._touched = end

    def find(self, ids: Tensor, keys: Tensor) -> Tensor:
        """Numbers of `ids` [n] in `keys`, int64, -1 if absent. Ids may repeat."""
        return self.find_and_count(ids, keys)[0]

    def find_and_count(self, ids: Tensor, keys: Tensor) -> tuple[Tensor, int | None]:
        """Like `find`; also how many are absent: known on asynchronous devices, where a sync reads it anyway."""
        _, entries, absent = (
            self._search_windows(ids, keys) if self._is_asynchronous else (*self._search(ids, keys), None)
        )
        return entries.to(torch.int64).sub_(1), absent

    def place(self, ids: Tensor, numbers: Tensor) -> None:
        """Enter the numbers [n] of distinct, absent ids. If several want a free slot, one wins; the rest probe on."""
        self.used += len(ids)
        slots = self.home(ids)
        entries = (numbers + 1).to(torch.int32)
        if self._is_asynchronous:
            for some_slots, some in zip(slots.split(_SEARCHES_AT_ONCE), entries.split(_SEARCHES_AT_ONCE), strict=True):
                self._place_windows(some_slots, some)
            return
        while len(slots):
            free = (self._entries.index_select(0, slots) <= _EMPTY).nonzero().squeeze(1)
            self._entries.index_copy_(0, slots.index_select(0, free), entries.index_select(0, free))
            unplaced = (self._entries.index_select(0, slots) != entries).nonzero().squeeze(1)
            entries = entries.index_select(0, unplaced)
            slots = slots.index_select(0, unplaced).add_(1).bitwise_and_(self._mask)

    def remove(self, ids: Tensor, keys: Tensor) -> None:
        """Remove those of `ids` [n] that are present."""
        slots, entries = self._search_windows(ids, keys)[:2] if self._is_asynchronous else self._search(ids, keys)
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
            read = self._entries.index_select(0, following)
            slots.index_copy_(0, unfinished, following)
            entries.index_copy_(0, unfinished, read)
            still = self._unfinished(read, ids.index_select(0, unfinished), keys)
            unfinished = unfinished.index_select(0, still)
        return slots, entries

    def _unfinished(self, entries: Tensor, ids: Tensor, keys: Tensor) -> Tensor:
        """Indices of the searches that read `entries` [n] and must probe on."""
        is_other = keys.index_select(0, entries.sub(1).clamp_min_(0)) != ids
        if self._has_removed:
            is_other |= entries == _REMOVED
        return is_other.logical_and_(entries != _EMPTY).nonzero().squeeze(1)

    # -- in windows, for an asynchronous device -------------------------------------------------------------------

    def _search_windows(self, ids: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, int]:
        """Like `_search`; also the number of ids that are absent."""
        slots = self.home(ids)
        entries = torch.empty_like(slots, dtype=torch.int32)
        is_unfinished = torch.empty_like(slots, dtype=torch.bool)
        for begin in range(0, len(ids), _SEARCHES_AT_ONCE):
            some = slice(begin, begin + _SEARCHES_AT_ONCE)
            slots[some], entries[some], is_unfinished[some] = self._search_window(slots[some], ids[some], keys)
        unfinished, absent = torch.stack([is_unfinished.sum(), (entries == _EMPTY).sum()]).tolist()
        while unfinished:  # rare
            rest = is_unfinished.nonzero().squeeze(1)
            continued = self._search_window(slots.index_select(0, rest), ids.index_select(0, rest), keys)
            for whole, part in zip((slots, entries, is_unfinished), continued, strict=True):
                whole.index_copy_(0, rest, part)
            unfinished, absent = torch.stack([is_unfinished.sum(), (entries == _EMPTY).sum()]).tolist()
        return slots, entries, absent

    def _search_window(self, slots: Tensor, ids: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Search from `slots` [n]: the slot that ends each search, its entry, and whether the search must go on.

        For a search that must go on, they are the slot behind its window, and _REMOVED.
        """
        window = self._window(slots)
        read = self._entries[window]  # [n, _WINDOW]
        is_own = (read > _EMPTY).logical_and_(keys[read.sub(1).clamp_min_(0)] == ids[:, None])
        is_end = is_own.logical_or_(read == _EMPTY)
        place = is_end.to(torch.int8).argmax(dim=1, keepdim=True)  # the first of several
        goes_on = is_end.any(dim=1).logical_not_()
        behind = (slots + _WINDOW).bitwise_and_(self._mask)
        end = torch.where(goes_on, behind, window.gather(1, place).squeeze(1))
        return end, read.gather(1, place).squeeze(1).masked_fill_(goes_on, _REMOVED), goes_on

    def _place_windows(self, slots: Tensor, entries: Tensor) -> None:
        """Write each of `entries` [n] into the first free slot from its slot on."""
        is_waiting = torch.ones_like(entries, dtype=torch.bool)
        while len(entries):
            for _ in range(_TRIES):
                window = self._window(slots)
                is_free = self._entries[window] <= _EMPTY
                first = window.gather(1, is_free.to(torch.int8).argmax(dim=1, keepdim=True)).squeeze(1)
                has_free = is_free.any(dim=1)
                target = torch.where(is_waiting & has_free, first, self.size)
                self._entries.index_copy_(0, target, entries)  # of several that want a slot, one wins
                is_placed = (self._entries.index_select(0, target) == entries) & (target < self.size)
                is_waiting &= ~is_placed
                slots = torch.where(has_free, slots, slots + _WINDOW).bitwise_and_(self._mask)
            if not bool(is_waiting.any()):
                return

    def _window(self, slots: Tensor) -> Tensor:
        """int64 [n, _WINDOW]: the slots from each of `slots` [n] on."""
        offsets = torch.arange(_WINDOW, device=slots.device)
        return (slots[:, None] + offsets).bitwise_and_(self._mask)
