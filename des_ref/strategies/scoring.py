"""CodecConfig scored where the outputs of ids live: the plan of dessim/workload/strategies/scoring.py, op by op.

    tail_forward -> (codes) -> scores -> scores_max -> exponentials -> scores_sum -> scores_backward -> codes_grad

Formulas: substitution/softmax.py. No autograd: what comes out is the gradient of the codes, and backward goes on there.
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
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True)
class Scored:
    """What a step found of its mean loss over all B samples.

    losses        [b], of the samples of this worker's tail, without what codes cost by themselves
    outputs_grad  [u, L + 1], of the outputs of this worker's different ids
    grad          [b, L + 1], of what the tail gave
    """

    losses: Tensor
    outputs_grad: Tensor
    grad: Tensor


class Scoring:
    """Of one worker. `scatter`: its tail has only the worker's own samples."""

    def __init__(self, network: Network, comm: Comm, scatter: bool) -> None:
        self._comm, self._scatter, self._fields = comm, scatter, network.fields
        self._alpha: Tensor = network.operators["fvae"].alpha

    def train(self, out: Tensor, outputs: Tensor, held: OwnedOccurrences, counts: Tensor, marks: Marks) -> Scored:
        """From what the tail gave [b, L + 1], outputs [u, L + 1] of this worker's different ids, and how many ids each
        bag of the batch has, [B, F]."""
        scores, candidates, sums = self._score(out, outputs, held, marks)
        with marks.segment("scores_backward", Phase.BACKWARD):
            losses = self._losses(sums, counts)
            candidates_grad, codes_grad = scores.gradients(sums, counts.to(sums.dtype), self._alpha / len(sums))
            outputs_grad = torch.zeros_like(outputs).index_add(0, candidates.row, candidates_grad)
        grad = torch.zeros_like(out)
        grad[:, :-1] = self._summed(codes_grad)
        return Scored(losses, outputs_grad, grad)

    def losses(self, out: Tensor, outputs: Tensor, held: OwnedOccurrences, counts: Tensor) -> Tensor:
        """`Scored.losses`, and nothing else."""
        return self._losses(self._score(out, outputs, held, NoMarks())[2], counts)

    def _score(
        self, out: Tensor, outputs: Tensor, held: OwnedOccurrences, marks: Marks
    ) -> tuple[Scores, Candidates, Tensor]:
        """Scores, the candidates they are of, and sums [B, 2F] over all workers."""
        codes = self._of_all(out[:, :-1])
        with marks.segment("scores", Phase.FORWARD):
            candidates = Candidates.of(held, len(outputs), self._fields)
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

    def _of_all(self, codes: Tensor) -> Tensor:
        """[B, L]."""
        if not self._scatter:
            return codes
        whole = codes.new_empty(len(codes) * self._comm.world_size, codes.shape[1])
        self._comm.all_gather("codes", whole, codes.contiguous()).wait()
        return whole

    def _summed(self, grad: Tensor) -> Tensor:
        """[b, L] of the parts [B, L] that all workers have: a code feeds other scores on each of them."""
        if not self._scatter:
            self._comm.all_reduce("codes_grad", grad).wait()
            return grad
        own = grad.new_empty(len(grad) // self._comm.world_size, grad.shape[1])
        self._comm.reduce_scatter("codes_grad", own, grad).wait()
        return own
