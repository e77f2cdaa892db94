"""A softmax over the ids of a field, its rows where they live: the output of a field-aware autoencoder.

    l_bi = z_b . w_i + b_i,   p_bi = e^{l_bi} / sum over candidates j of i's field of e^{l_bj}
    nll_b = - sum_f alpha_f sum over ids i of field f in sample b of log p_bi

Candidates of a field are its ids that the global batch has (batched softmax). Every worker knows the codes z of all B
samples and scores them against the candidates that it owns. Max and sum are all it needs of the others, so rows may
live anywhere:

    round     m[b, f] = max over candidates of l_bi                        AllReduce(MAX) [B, F]: exp must not overflow
    round     S[b, f] = sum over candidates of e^{l_bi - m_bf},
              T[b, f] = sum over ids of the sample of l_bi - m_bf          AllReduce(SUM) [B, 2F]
    finish    nll_b = sum_f alpha_f (c_bf log S_bf - T_bf), c_bf how many ids of field f the sample has; m cancels
    backward  dl_bi = alpha_f (c_bf e^{l_bi - m_bf} / S_bf - x_bi), x_bi how often sample b has i: no message, for loss
              and S are replicated;  dw_i = sum_b dl_bi z_b, db_i = sum_b dl_bi, local;  dz_b = sum_i dl_bi w_i is a
              partial sum, because z_b feeds the scores of every worker: AllReduce(SUM) [B, L]

The gradient is written out, and in place: of [B, candidates] there is one tensor, which holds l, then e^{l - m}, then
dl. Source: derived here; checked in float64 by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.substitution.owned import OwnedOccurrences


@dataclass(frozen=True, slots=True)
class Candidates:
    """The C candidates that a worker owns, sorted by field, and where the n occurrences it holds are among them.

    row     int64 [C], which of the worker's different ids
    sizes   how many candidates each of the F fields has here
    place   int64 [n], which of the C each occurrence is
    """

    row: Tensor
    sizes: tuple[int, ...]
    place: Tensor
    held: OwnedOccurrences

    @classmethod
    def of(cls, held: OwnedOccurrences, ids: int, fields: int) -> Candidates:
        """From what a worker holds of `ids` different ids."""
        pair, place = torch.unique(held.field * ids + held.inverse, return_inverse=True)
        sizes = torch.bincount(pair // max(ids, 1), minlength=fields)
        return cls(pair % max(ids, 1), tuple(sizes.tolist()), place, held)


class Scores:
    """Of codes [B, L] against the outputs [C, L + 1] (weights, bias) of candidates."""

    def __init__(self, codes: Tensor, outputs: Tensor, candidates: Candidates) -> None:
        self._codes, self._weights, self._candidates = codes, outputs[:, :-1], candidates
        self._values = torch.addmm(outputs[:, -1], codes, self._weights.T)
        self._fields = self._values.split(candidates.sizes, dim=1)

    def largest(self) -> Tensor:
        """[B, F]; -inf where this worker has no candidate."""
        none = self._codes.new_full((len(self._codes),), float("-inf"))
        return torch.stack([x.amax(dim=1) if x.shape[1] else none for x in self._fields], dim=1)

    def sums(self, largest: Tensor) -> Tensor:
        """[B, 2F]: this worker's parts of S and T under the maxima of all workers [B, F]."""
        held = self._candidates.held
        for x, m in zip(self._fields, largest.unbind(dim=1), strict=True):
            x.sub_(m[:, None])
        found = self._values[held.sample, self._candidates.place]
        targets = self._codes.new_zeros(largest.numel()).index_add(0, held.bag, found)
        self._values.exp_()
        return torch.cat([torch.stack([x.sum(dim=1) for x in self._fields], dim=1), targets.view_as(largest)], dim=1)

    def gradients(self, sums: Tensor, counts: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Of outputs [C, L + 1] and, this worker's part, of codes [B, L], from the sums over all workers.

        `weight` [F]: alpha, over the number of samples that the loss is a mean of. Ends the use of these scores.
        """
        held = self._candidates.held
        total = sums[:, : len(self._fields)].clamp_min(1)  # it is, wherever there is a candidate
        for x, factor in zip(self._fields, (weight * counts / total).unbind(dim=1), strict=True):
            x.mul_(factor[:, None])
        self._values.index_put_((held.sample, self._candidates.place), -weight[held.field], accumulate=True)
        grad = self._values
        return torch.cat([grad.T @ self._codes, grad.sum(dim=0)[:, None]], dim=1), grad @ self._weights


def likelihoods(sums: Tensor, counts: Tensor, alpha: Tensor) -> Tensor:
    """nll [b] from sums [b, 2F] over all workers, counts [b, F] and alpha [F]."""
    total, targets = sums.chunk(2, dim=1)
    return (torch.xlogy(counts, total) - targets) @ alpha
