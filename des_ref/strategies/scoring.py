"""Codes scored on the owners of the output rows: the plan of dessim/workload/strategies/scoring.py, op by op.

    tail_forward -> (codes) -> scores -> scores_max -> exponentials -> scores_sum -> scores_backward -> codes_grad

Formulas: substitution/softmax.py. This part does not use autograd; it returns the gradient of the codes, from which the
tail's backward continues.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.models.build import Network
from des_ref.strategies.base import Marks, NoMarks
from des_ref.substitution.owned import OwnedOccurrences
from des_ref.substitution.softmax import Candidates, Scores, likelihoods
from des_ref.substitution.sums import RowIndex
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True)
class ScoringResult:
    """Losses and gradients of the mean loss over all B samples.

    losses        [b], of the samples of this worker's tail, without the loss term that depends on the codes only
    outputs_grad  [u, L + 1], of the outputs of this worker's distinct ids
    tail_grad     [b, L + 1], of the tail's output
    """

    losses: Tensor
    outputs_grad: Tensor
    tail_grad: Tensor


class Scoring:
    """The scoring of one worker. `scatter`: its tail has the worker's own samples only."""

    def __init__(self, network: Network, comm: Comm, scatter: bool) -> None:
        self._comm = comm
        self._scatter = scatter
        self._fields = network.fields
        self._alpha: Tensor = network.operators["fvae"].alpha

    def train(
        self, out: Tensor, outputs: Tensor, owned: OwnedOccurrences, counts: Tensor, marks: Marks
    ) -> ScoringResult:
        """Score the tail's output `out` [b, L + 1] against `outputs` [u, L + 1] of this worker's distinct ids.

        `counts` [B, F] is the number of ids in each bag of the batch.
        """
        scores, candidates, sums = self._score(out, outputs, owned, marks)
        with marks.segment("scores_backward", Phase.BACKWARD):
            losses = self._losses(sums, counts)
            candidates_grad, codes_grad = scores.gradients(sums, counts.to(sums.dtype), self._alpha / len(sums))
            outputs_grad = RowIndex(candidates.row).scatter(candidates_grad, len(outputs))
        tail_grad = torch.zeros_like(out)
        tail_grad[:, :-1] = self._summed(codes_grad)
        return ScoringResult(losses, outputs_grad, tail_grad)

    def losses(self, out: Tensor, outputs: Tensor, owned: OwnedOccurrences, counts: Tensor) -> Tensor:
        """`ScoringResult.losses` only, without gradients and marks."""
        _, _, sums = self._score(out, outputs, owned, NoMarks())
        return self._losses(sums, counts)

    def _score(
        self, out: Tensor, outputs: Tensor, owned: OwnedOccurrences, marks: Marks
    ) -> tuple[Scores, Candidates, Tensor]:
        """The scores, their candidates, and the sums [B, 2F] over all workers."""
        codes = self._codes_of_all(out[:, :-1])
        with marks.segment("scores", Phase.FORWARD):
            candidates = Candidates.of(owned, len(outputs), self._fields)
            scores = Scores(codes, outputs[candidates.row], candidates)
            largest = scores.largest()
        self._comm.all_reduce_max("scores_max", largest).wait()
        with marks.segment("exponentials", Phase.FORWARD):
            sums = scores.sums(largest)
        self._comm.all_reduce("scores_sum", sums).wait()
        return scores, candidates, sums

    def _losses(self, sums: Tensor, counts: Tensor) -> Tensor:
        share = len(sums) // self._comm.world_size
        own = slice(self._comm.rank * share, (self._comm.rank + 1) * share) if self._scatter else slice(None)
        return likelihoods(sums[own], counts[own].to(sums.dtype), self._alpha)

    def _codes_of_all(self, codes: Tensor) -> Tensor:
        """[B, L]: the codes of all samples."""
        if not self._scatter:
            return codes
        whole = codes.new_empty(len(codes) * self._comm.world_size, codes.shape[1])
        self._comm.all_gather("codes", whole, codes.contiguous()).wait()
        return whole

    def _summed(self, grad: Tensor) -> Tensor:
        """[b, L]: the sum of the workers' parts [B, L]; a code feeds different scores on each of them."""
        if not self._scatter:
            self._comm.all_reduce("codes_grad", grad).wait()
            return grad
        own = grad.new_empty(len(grad) // self._comm.world_size, grad.shape[1])
        self._comm.reduce_scatter("codes_grad", own, grad).wait()
        return own
