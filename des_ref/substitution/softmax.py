"""A softmax over the ids of a field, sharded over the owners of their rows: the output of a field-aware autoencoder.

    l_bi = z_b . w_i + b_i,   p_bi = e^{l_bi} / sum over candidates j of i's field of e^{l_bj}
    nll_b = - sum_f alpha_f sum over ids i of field f in sample b of log p_bi

The candidates of a field are its ids in the global batch (batched softmax). Every worker knows the codes z of all B
samples and scores them against the candidates that it owns. It needs only maxima and sums from the other workers, so
any placement of rows works:

    round     m[b, f] = max over candidates of l_bi, so that exp cannot overflow         AllReduce(MAX) [B, F]
    round     S[b, f] = sum over candidates of e^{l_bi - m_bf},
              T[b, f] = sum over the ids of the sample of l_bi - m_bf                    AllReduce(SUM) [B, 2F]
    finish    nll_b = sum_f alpha_f (c_bf log S_bf - T_bf), c_bf the number of ids of field f in the sample; m cancels
    backward  dl_bi = alpha_f (c_bf e^{l_bi - m_bf} / S_bf - x_bi), x_bi the number of times that i occurs in sample b;
              no message, because loss and S are replicated.  dw_i = sum_b dl_bi z_b and db_i = sum_b dl_bi are local.
              dz_b = sum_i dl_bi w_i is a partial sum, because z_b feeds the scores of every worker:
              AllReduce(SUM) [B, L]

The gradient is computed explicitly and in place: there is a single tensor of size [B, candidates], which holds l, then
e^{l - m}, then dl.

Source: derived here; checked in float64 by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.substitution.owned import OwnedOccurrences, SortedKeys, first_of_runs, stable_order
from des_ref.substitution.sums import sums_of_neighbours, tally_where


@dataclass(frozen=True, slots=True)
class Candidates:
    """The C candidates that a worker owns, sorted by field, and the candidate of each of its n occurrences.

    row         int64 [C], which of the worker's distinct ids each candidate is
    sizes       number of owned candidates of each of the F fields
    candidate   int64 [n], which of the C candidates each occurrence is
    owned       the occurrences
    """

    row: Tensor
    sizes: tuple[int, ...]
    candidate: Tensor
    owned: OwnedOccurrences

    @classmethod
    def of(cls, owned: OwnedOccurrences, ids: int, fields: int) -> Candidates:
        """From the owned occurrences of `ids` distinct ids. An id that occurs in two fields is a candidate of both."""
        pair = owned.field * ids + owned.inverse
        order = stable_order(pair)
        pairs = pair.index_select(0, order)
        keys = SortedKeys(pairs, order, first_of_runs(pairs))
        sizes = tally_where(keys.is_first, pairs // max(ids, 1), fields).tolist()
        candidates, index = keys.distinct(sum(sizes))
        return cls(candidates % max(ids, 1), tuple(sizes), index.row, owned)


class Scores:
    """Scores of codes [B, L] against the outputs [C, L + 1] (weights, bias) of the owned candidates."""

    def __init__(self, codes: Tensor, outputs: Tensor, candidates: Candidates) -> None:
        self._codes = codes
        self._weights = outputs[:, :-1]
        self._candidates = candidates
        self._values = torch.addmm(outputs[:, -1], codes, self._weights.T)  # [B, C]: l, later e^{l - m}, then dl
        self._fields = self._values.split(candidates.sizes, dim=1)  # views, one a field

    def largest(self) -> Tensor:
        """[B, F]: the maximum over owned candidates; -inf where this worker has none."""
        none = self._codes.new_full((len(self._codes),), float("-inf"))
        return torch.stack([x.amax(dim=1) if x.shape[1] else none for x in self._fields], dim=1)

    def sums(self, largest: Tensor) -> Tensor:
        """[B, 2F]: this worker's parts of S and T, given the maxima [B, F] over all workers."""
        owned = self._candidates.owned
        for x, m in zip(self._fields, largest.unbind(dim=1), strict=True):
            x.sub_(m[:, None])
        scores = self._values[owned.sample, self._candidates.candidate]  # [n]
        targets = sums_of_neighbours(scores[:, None], owned.by_bag)
        self._values.exp_()
        return torch.cat([torch.stack([x.sum(dim=1) for x in self._fields], dim=1), targets.view_as(largest)], dim=1)

    def gradients(self, sums: Tensor, counts: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the outputs [C, L + 1], and this worker's part of those of the codes [B, L].

        `sums` [B, 2F] are over all workers, `counts` [B, F] are c. `weight` [F] is alpha divided by the number of
        samples in the mean loss. Overwrites the scores, so call it last.
        """
        owned = self._candidates.owned
        total = sums[:, : len(self._fields)].clamp_min(1)  # at least 1 anyway, wherever there is a candidate
        for x, factor in zip(self._fields, (weight * counts / total).unbind(dim=1), strict=True):
            x.mul_(factor[:, None])
        self._values.index_put_((owned.sample, self._candidates.candidate), -weight[owned.field], accumulate=True)
        grad = self._values
        return torch.cat([grad.T @ self._codes, grad.sum(dim=0)[:, None]], dim=1), grad @ self._weights


def likelihoods(sums: Tensor, counts: Tensor, alpha: Tensor) -> Tensor:
    """nll [b] from sums [b, 2F] over all workers, counts [b, F] and alpha [F]."""
    total, targets = sums.chunk(2, dim=1)
    return (torch.xlogy(counts, total) - targets) @ alpha
