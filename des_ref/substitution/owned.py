"""The occurrences of owned ids in a step, and sums over them.

A worker owns some rows. Its *owned occurrences* are all occurrences, over the global batch, of the ids of these rows. A
*bag* is the ids of one field of one sample. Occurrences are sorted by bag, sample by sample, so every group that is
summed (a bag or a sample) is a contiguous run. `OwnedOccurrences.sums` reads the vector of each id where it is stored
and adds it up; it never materializes one vector for each occurrence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from des_ref.async_device import is_asynchronous, places_of
from des_ref.substitution.sums import Groups, RowIndex, tally

# Keys whose upper 32 bits are likely to be distinct; with more keys, collisions become common.
_MAX_KEYS_SORTED_BY_UPPER_HALF = 1 << 17


@dataclass(frozen=True)
class OwnedOccurrences:
    """n occurrences of u distinct ids that this worker owns.

    sample, field   int64 [n], sample of the global batch of `samples` and field of `fields`; sorted by bag
    row_index       which of the u distinct ids each occurrence is
    bag_size        [n], number of ids in the bag of each occurrence, on all workers together; None if not needed
    known_pairs     number of (sample, field) pairs that occur in each field, where the host knows them already
    """

    sample: Tensor
    field: Tensor
    row_index: RowIndex
    samples: int
    fields: int
    bag_size: Tensor | None = None
    known_pairs: Sequence[int] | None = None

    @classmethod
    def of(
        cls, sample: Tensor, field: Tensor, inverse: Tensor, samples: int, fields: int, bag_size: Tensor | None = None
    ) -> OwnedOccurrences:
        """From occurrences in any order; `inverse` int64 [n] says which of the distinct ids each is."""
        optional = () if bag_size is None else (bag_size,)
        _, sample, field, inverse, *optional = sorted_by(sample * fields + field, sample, field, inverse, *optional)
        return cls(sample, field, RowIndex(inverse), samples, fields, *optional)

    @property
    def inverse(self) -> Tensor:
        """int64 [n]: which of the distinct ids each occurrence is."""
        return self.row_index.row

    # -- groups ---------------------------------------------------------------------------------------------------

    @cached_property
    def bag(self) -> Tensor:
        """int64 [n]: sample * fields + field."""
        return self.sample * self.fields + self.field

    @cached_property
    def pair_bag(self) -> Tensor:
        """int64 [P], ascending: the bags with at least one owned occurrence."""
        return self.bag[self.by_pair.starts]

    @property
    def pair_sample(self) -> Tensor:
        """int64 [P]."""
        return torch.div(self.pair_bag, self.fields, rounding_mode="floor")

    @property
    def pair_field(self) -> Tensor:
        """int64 [P]."""
        return self.pair_bag % self.fields

    @cached_property
    def by_pair(self) -> Groups:
        """Occurrences grouped by the P (sample, field) pairs that occur."""
        is_first = first_of_runs(self.bag)
        count = sum(self.known_pairs) if self.known_pairs is not None else None
        return Groups(is_first.cumsum(0) - 1, places_of(is_first, count))

    @cached_property
    def pairs_of_fields(self) -> Sequence[int]:
        """The number of pairs in each field, [fields]."""
        return self.known_pairs or tally(self.pair_field, self.fields).tolist()

    @cached_property
    def by_bag(self) -> Groups:
        """Occurrences grouped by bag, empty bags included."""
        return Groups.of(self.bag, self.samples * self.fields)

    @cached_property
    def by_sample(self) -> Groups:
        return Groups.of(self.sample, self.samples)

    def of_pairs(self) -> OwnedOccurrences:
        """One occurrence for each (sample, field) pair, with the pairs in place of ids."""
        pair = torch.arange(len(self.pair_bag), device=self.bag.device)
        return OwnedOccurrences(self.pair_sample, self.pair_field, RowIndex(pair), self.samples, self.fields)

    # -- sums -----------------------------------------------------------------------------------------------------

    def sums(self, terms: Tensor, groups: Groups) -> Tensor:
        """[g, r]: `terms` [u, r] of the distinct ids, added up over the occurrences of each group."""
        return self.row_index.sums(terms, groups)


@dataclass(frozen=True)
class SortedKeys:
    """Keys [n] in ascending order, the stable `order` that sorts them, and which are the first of equal ones."""

    ascending: Tensor
    order: Tensor
    is_first: Tensor

    @classmethod
    def of(cls, keys: Tensor) -> SortedKeys:
        ascending, order = _sorted_keys(keys)
        return cls(ascending, order, first_of_runs(ascending))

    def distinct(self, count: int | None = None) -> tuple[Tensor, RowIndex]:
        """The distinct keys, ascending, and which of them each key is; `count` is their number where it is known.

        The sort that finds them also yields the order by row, which the index keeps.
        """
        row_ascending = self.is_first.cumsum(0) - 1
        starts = places_of(self.is_first, count)
        row = torch.empty_like(self.order).index_copy_(0, self.order, row_ascending)
        index = RowIndex(row, (self.order, row_ascending), {len(starts): starts})
        return self.ascending.index_select(0, starts), index


def unique_with_index(keys: Tensor) -> tuple[Tensor, RowIndex]:
    """The distinct ones of `keys` [n], ascending, and which of them each key is."""
    return SortedKeys.of(keys).distinct()


def first_of_runs(ascending: Tensor) -> Tensor:
    """bool [n]: which of sorted numbers [n] differ from the one before."""
    is_first = torch.ones_like(ascending, dtype=torch.bool)
    is_first[1:] = ascending[1:] != ascending[:-1]
    return is_first


def _sorted_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """`keys` [n] ascending, and the stable order that sorts them."""
    if len(keys) <= _MAX_KEYS_SORTED_BY_UPPER_HALF and not is_asynchronous(keys.device):
        # Distinct hashes usually differ in their upper halves, and sorting 32 bits takes half the time.
        order = (keys >> 32).to(torch.int32).sort(stable=True).indices
        ascending = keys.index_select(0, order)
        if not bool((ascending[1:] < ascending[:-1]).any()):
            return ascending, order
    return keys.sort(stable=True)


def sorted_by(number: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """`number` [n] ascending, and `others` [n, ..] in the same order."""
    # On a CPU checking is cheaper than sorting; on a GPU the check would need a device sync.
    if not is_asynchronous(number.device) and not bool((number[1:] < number[:-1]).any()):
        return number, *others
    number, order = number.sort(stable=True)
    return number, *(x[order] for x in others)


def stable_order(numbers: Tensor) -> Tensor:
    """int64 [n]: the stable order that sorts `numbers` [n], all below 2^31, as int32: three times as fast."""
    return torch.argsort(numbers.to(torch.int32), stable=True)


def bag_sizes(bag: Tensor, bags: int) -> Tensor:
    """[n]: for each occurrence, the number of occurrences with the same bag number, below `bags`."""
    return tally(bag, bags)[bag]
