"""The frame of every strategy that brings operands to the samples instead of partials to a sum.

    ... -> bags [b, F, W + E] -> dense_forward -> dense_backward -> ... -> update_rows -> update_dense

How bags come to be (by whom rows are pooled, what crosses the network) and how their gradient goes back is each
strategy's own. The dense part is the same for all: the sums of every operator from bags, and the tail above, on this
worker's B/N samples, its gradients summed over the workers.

The autograd graph is cut at the bags, as DES cuts it at its buffer, so that each piece of backward is an op of the
plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm, Handle
from des_ref.data.batch import Batch
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Lane, Optimizers, OwnedByHash, StepResult
from des_ref.strategies.grads import SummedGrads
from des_ref.substitution.owned import Groups, RowIndex, in_order
from dessim.trace.schema import Phase
from dessim.workload.options import Options


@dataclass(frozen=True, slots=True)
class Sent:
    """What `send` brought for a batch: ids in the strategy's own form, and the labels that the dense part needs."""

    ids: Any
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Updated:
    """Rows that this worker updates: their numbers and ids [u], and gradients [u, W], all columns side by side."""

    rows: Tensor
    ids: Tensor
    grad: Tensor


class ShardedBase(OwnedByHash):
    """One step, with holes for what each strategy does differently."""

    name: str
    loss_is_share = True

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm, options: Options | None = None) -> None:
        super().__init__(network, optimizers, comm, options)
        self._start_dense(optimizers)

    # -- each strategy's own --------------------------------------------------------------------------------------

    def _send_ids(self, batch: Batch, lane: Lane) -> Any:
        """The ids of this worker's samples, to whom the strategy wants them."""
        raise NotImplementedError

    def _fetch(self, batch: Batch, ids: Any, train: bool) -> Any:
        """Bring what the samples need; whatever `_bags` reads. Without `train`, nothing is inserted or kept."""
        raise NotImplementedError

    def _bags(self, fetched: Any) -> Tensor:
        """The bags [b, F, W + E] that have arrived, as the dense part wants them."""
        raise NotImplementedError

    def _send_back(self, grad: Tensor) -> tuple[Tensor, Handle | None]:
        """Send the gradient of the bags where bags have travelled: what arrives, once the handle is waited for."""
        return grad, None

    def _row_grads(self, fetched: Any, grad: Tensor) -> Updated:
        """From the gradient of the bags, as it arrived, to that of the rows this worker holds."""
        raise NotImplementedError

    def _counts(self, batch: Batch, fetched: Any, updated: Updated) -> Counts:
        raise NotImplementedError

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        raise NotImplementedError

    # -- the same for all -----------------------------------------------------------------------------------------

    def send(self, batch: Batch, lane: Lane | None = None) -> Sent:
        lane = lane or Lane(self.comm, self.marks)
        labels, ready = self._labels(batch, lane.comm)
        ids = self._send_ids(batch, lane)
        if ready is not None:
            ready.wait()
        return Sent(ids, labels)

    def step(self, batch: Batch, sent: Sent | None = None) -> StepResult:
        network, mark = self.network, self.marks.segment
        samples = len(batch) * self.comm.world_size
        self._before()
        sent = sent or self.send(batch)
        fetched = self._fetch(batch, sent.ids, train=True)
        self._before_dense()
        with mark("dense_forward", Phase.FORWARD):
            bags = self._bags(fetched).detach().requires_grad_()
            logits = network.tail(network.from_bags(bags), self._masks(batch))
            loss = network.objective.loss(logits, sent.labels) / self._averaged(samples)
        with mark("dense_backward", Phase.BACKWARD):
            for p in network.dense_parameters:
                p.grad = None
            loss.backward()
        updated, grads = self._learn(fetched, bags.grad)
        self._step += 1
        counts = self._counts(batch, fetched, updated)
        told = loss.detach() * (self._averaged(samples) / samples)
        return StepResult(told, counts, updated.ids, grads, logits.detach(), sent.labels)

    def _learn(self, fetched: Any, grad: Tensor) -> tuple[Updated, dict[str, Tensor]]:
        """From the gradient of the bags to updated rows and parameters; the rows' gradients, a column each."""
        mark = self.marks.segment
        back, back_ready = self._send_back(grad)
        dense = self._send_dense_grads()
        if back_ready is not None:
            back_ready.wait()
        updated = self._row_grads(fetched, back)
        widths = self.network.row_widths
        grads = dict(zip(widths, updated.grad.split(list(widths.values()), dim=1), strict=True))
        with mark("update_rows", Phase.OPTIMIZER):
            self.update_rows(updated.rows, grads)
        self._step_dense(dense)
        return updated, grads

    def _averaged(self, samples: int) -> int:
        """How many samples a gradient is the mean over: the global batch."""
        return samples

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        samples = len(batch) * self.comm.world_size
        self.settle()
        bags = self._bags(self._fetch(batch, self.send(batch).ids, train=False))
        return self._gather_logits(self.network.tail(self.network.from_bags(bags)), samples)

    def _values(self, unique: Tensor, train: bool) -> tuple[Tensor | None, Tensor]:
        """Row numbers and values [u, W] of different ids, all columns side by side."""
        names = tuple(self.network.row_widths)
        if not train:
            return None, torch.cat(list(self.table.gather(unique, names).values()), dim=1)
        rows = self.table.find_or_insert(unique)
        return rows, torch.cat(list(self.table.values(unique, rows, names).values()), dim=1)

    def _pooled(self, values: Tensor, index: Tensor, bag: Tensor, bags: int) -> Tensor:
        """[bags, W + E] from values [u, W]: each occurrence `index` [n] into them added to its `bag` [n]."""
        widths = self.network.row_widths
        columns: Mapping[str, Tensor] = dict(zip(widths, values.split(list(widths.values()), dim=1), strict=True))
        bag, index = in_order(bag, index)
        return RowIndex(index).sums(self.network.bag_rows(columns), Groups.of(bag, bags))

    # -- what a replicated dense part, or one on servers, does differently ----------------------------------------

    def _before(self) -> None:
        """What a step starts with."""

    def _before_dense(self) -> None:
        """What the dense part needs besides bags and labels."""

    def _labels(self, batch: Batch, comm: Comm) -> tuple[Tensor, Handle | None]:
        return batch.labels, None

    def _masks(self, batch: Batch) -> list[Tensor] | None:
        """Of this worker's samples, each that of its place in the global batch."""
        share = len(batch)
        masks = self.network.masks(share * self.comm.world_size, self._step)
        own = slice(self.comm.rank * share, (self.comm.rank + 1) * share) if batch.place is None else batch.place
        return None if masks is None else [mask[own] for mask in masks]

    def _start_dense(self, optimizers: Optimizers) -> None:
        self.train_dense(optimizers.dense(self.network.dense_parameters))

    def _send_dense_grads(self) -> SummedGrads:
        return SummedGrads.launch(self.comm, "dense_grad", self.network.dense_parameters)

    def _step_dense(self, dense: Any) -> None:
        self.step_dense(dense)

    def _gather_logits(self, logits: Tensor, samples: int) -> Tensor:
        whole = logits.new_empty(samples)
        self.comm.all_gather("logits", whole, logits).wait()
        return whole
