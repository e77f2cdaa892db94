"""The ids a worker holds in a step: all occurrences, over the global batch, of ids whose rows it owns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Held:
    """n occurrences of u different ids, in P (sample, field) pairs.

    sample, field   int64 [n], sample within the global batch
    inverse         int64 [n], which of the u different ids
    pair            int64 [n], which of the P pairs; pairs are sorted by field, then sample
    pair_sample     int64 [P]
    field_pairs     how many pairs each of the F fields has (Python ints: they cut the GEMM of fc1)
    samples         B
    bag_size        [n], how many ids the bag of each has, wherever they are held; None where nobody asks
    """

    sample: Tensor
    field: Tensor
    inverse: Tensor
    pair: Tensor
    pair_sample: Tensor
    field_pairs: tuple[int, ...]
    samples: int
    bag_size: Tensor | None = None

    @classmethod
    def of(
        cls,
        sample: Tensor,
        field: Tensor,
        inverse: Tensor,
        samples: int,
        fields: int,
        pairs: bool,
        bag_size: Tensor | None = None,
    ) -> Held:
        """`pairs`: whether some operator pools by (sample, field); without one the sort is saved."""
        if not pairs:
            none = sample[:0]
            return cls(sample, field, inverse, none, none, (), samples, bag_size)
        code, pair = torch.unique(field * samples + sample, return_inverse=True)
        counts = torch.bincount(code // samples, minlength=fields)
        return cls(sample, field, inverse, pair, code % samples, tuple(counts.tolist()), samples, bag_size)

    def of_pairs(self) -> Held:
        """The same with one occurrence a pair."""
        counts = torch.tensor(self.field_pairs, device=self.pair.device)
        field = torch.repeat_interleave(counts, output_size=len(self.pair_sample))
        each = torch.arange(len(field), device=field.device)
        return Held(self.pair_sample, field, each, each, self.pair_sample, self.field_pairs, self.samples)


def sizes_of_bags(bag: Tensor) -> Tensor:
    """[n]: how many of the occurrences [n] have the same bag number."""
    return torch.bincount(bag)[bag]
