"""The step shared by strategies that move rows or pooled vectors to the samples, not partials.

    ... -> bags [b, F, W + E] -> dense_forward -> dense_backward -> ... -> update_rows -> update_dense

A strategy decides who pools rows into bags, what is sent, and how the gradient of the bags returns to the rows. The
dense part is the same for all of them: the operators' sums from bags, and the tail, on this worker's B/N samples, with
gradients summed over the workers.

The autograd graph is cut at the bags, as DES cuts it at its buffer, so that each piece of backward is an op of the
plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm, Handle
from des_ref.data.batch import Batch
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Lane, Optimizers, StepResult
from des_ref.strategies.grads import SummedGrads
from des_ref.strategies.in_turn import Part, run_alone
from des_ref.strategies.strategy_base import StrategyBase
from des_ref.substitution.owned import sorted_by
from des_ref.substitution.sums import Groups, RowIndex
from dessim.trace.schema import Phase
from dessim.workload.options import Options


@dataclass(frozen=True, slots=True)
class Inputs:
    """Result of `send`: ids in the strategy's own form, and the labels and dense features that the dense part needs."""

    ids: Any
    labels: Tensor
    dense: Tensor | None


@dataclass(frozen=True, slots=True)
class RowGradients:
    """The rows that this worker updates: row numbers and ids [u], and gradients [u, W] of all columns together."""

    rows: Tensor
    ids: Tensor
    grad: Tensor


class ShardedBase(StrategyBase):
    """One step; methods that raise NotImplementedError are each strategy's own."""

    name: str
    loss_is_share = True

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm, options: Options | None = None) -> None:
        super().__init__(network, optimizers, comm, options)
        self._start_dense(optimizers)

    # -- each strategy's own --------------------------------------------------------------------------------------

    def _send_ids(self, batch: Batch, lane: Lane) -> Any:
        """Send the ids of this worker's samples; returns what `_fetch` needs."""
        raise NotImplementedError

    def _fetch(self, batch: Batch, ids: Any, train: bool) -> Part[Any]:
        """Bring rows or pooled bags to the samples; returns what `_bags` needs.

        Without `train`, no row is inserted and nothing is kept for backward.
        """
        raise NotImplementedError

    def _bags(self, fetched: Any) -> Tensor:
        """The bags [b, F, W + E] of the dense part's samples."""
        raise NotImplementedError

    def _send_back(self, grad: Tensor) -> tuple[Tensor, Handle | None]:
        """Send the gradient of the bags back to where they were pooled; the result is valid after the handle's wait."""
        return grad, None

    def _row_grads(self, fetched: Any, grad: Tensor) -> Part[RowGradients]:
        """The gradients of this worker's rows, from the gradient of the bags that it pooled."""
        raise NotImplementedError

    def _counts(self, batch: Batch, fetched: Any, row_grads: RowGradients) -> Counts:
        raise NotImplementedError

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        raise NotImplementedError

    # -- the same for all -----------------------------------------------------------------------------------------

    def send(self, batch: Batch, lane: Lane | None = None) -> Inputs:
        lane = lane or Lane(self.comm, self.marks)
        batch = self.network.keyed(batch)
        labels, labels_ready = self._labels(batch, lane.comm)
        dense, dense_ready = self._dense_features(batch, lane.comm)
        ids = self._send_ids(batch, lane)
        for ready in (labels_ready, dense_ready):
            if ready is not None:
                ready.wait()
        return Inputs(ids, labels, dense)

    def step(self, batch: Batch, sent: Inputs | None = None) -> StepResult:
        network = self.network
        mark = self.marks.segment
        samples = len(batch) * self.comm.world_size
        self._before()
        sent = sent or self.send(batch)
        fetched = run_alone(self._fetch(batch, sent.ids, train=True))
        self._before_dense()
        with mark("dense_forward", Phase.FORWARD):
            bags = self._bags(fetched).detach().requires_grad_()
            logits = network.tail(network.from_bags(bags), self._masks(batch), sent.dense)
            loss = network.objective.loss(logits, sent.labels) / self._averaged(samples)
        with mark("dense_backward", Phase.BACKWARD):
            for p in network.dense_parameters:
                p.grad = None
            loss.backward()
        row_grads, grads = self._learn(fetched, bags.grad)
        self._step += 1
        counts = self._counts(batch, fetched, row_grads)
        share_of_mean_loss = loss.detach() * (self._averaged(samples) / samples)
        return StepResult(
            loss=share_of_mean_loss,
            counts=counts,
            row_ids=row_grads.ids,
            row_grads=grads,
            out=logits.detach(),
            targets=sent.labels,
        )

    def _learn(self, fetched: Any, grad: Tensor) -> tuple[RowGradients, dict[str, Tensor]]:
        """Update rows and parameters from the gradient of the bags; returns the rows' gradients, also by column."""
        grad_at_owner, ready = self._send_back(grad)
        dense = self._send_dense_grads()
        if ready is not None:
            ready.wait()
        row_grads = run_alone(self._row_grads(fetched, grad_at_owner))
        grads = self._by_column(row_grads.grad)
        with self.marks.segment("update_rows", Phase.OPTIMIZER):
            self.update_rows(row_grads.rows, grads)
        self._step_dense(dense)
        return row_grads, grads

    def _by_column(self, values: Tensor) -> dict[str, Tensor]:
        """`values` [u, W] of rows, column by column."""
        widths = self.network.row_widths
        return dict(zip(widths, values.split(list(widths.values()), dim=1), strict=True))

    def _averaged(self, samples: int) -> int:
        """The number of samples over which a gradient is the mean: the global batch."""
        return samples

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        samples = len(batch) * self.comm.world_size
        self.settle()
        sent = self.send(batch)
        bags = self._bags(run_alone(self._fetch(batch, sent.ids, train=False)))
        return self._gather_logits(self.network.tail(self.network.from_bags(bags), dense=sent.dense), samples)

    def _values(self, unique: Tensor, train: bool, *stores: Tensor) -> tuple[Tensor | None, Tensor]:
        """Row numbers (None without `train`) and values [u, W] of distinct ids, all columns together.

        `stores` [u]: where rows are, if columns of tables are split (embedding/by_width.py).
        """
        names = tuple(self.network.row_widths)
        if not train:
            return None, torch.cat(list(self.table.gather(unique, names, *stores).values()), dim=1)
        rows = self.table.find_or_insert(unique, *stores)
        return rows, torch.cat(list(self.table.values(unique, rows, names).values()), dim=1)

    def _pooled(self, values: Tensor, index: Tensor, bag: Tensor, bags: int) -> Tensor:
        """[bags, W + E]: the `values` [u, W] of each occurrence, `index` [n] into them, summed over its `bag` [n]."""
        bag, index = sorted_by(bag, index)
        return RowIndex(index).sums(self.network.bag_rows(self._by_column(values)), Groups.of(bag, bags))

    def _pooled_at_samples(self, values: Tensor, index: Tensor, batch: Batch) -> Tensor:
        """[b * F, W + E]: the same for the bags of this worker's own samples."""
        fields = self.network.fields
        return self._pooled(values, index, batch.sample * fields + batch.field, len(batch) * fields)

    # -- overridden where the dense part is replicated or on servers ----------------------------------------------

    def _before(self) -> None:
        """Called at the start of a step."""

    def _before_dense(self) -> None:
        """Called before the dense part: wait for what it needs besides bags and labels."""

    def _labels(self, batch: Batch, comm: Comm) -> tuple[Tensor, Handle | None]:
        return batch.labels, None

    def _dense_features(self, batch: Batch, comm: Comm) -> tuple[Tensor | None, Handle | None]:
        return batch.dense, None

    def _masks(self, batch: Batch) -> list[Tensor] | None:
        """The masks of this worker's samples, each that of its place in the global batch."""
        places = self.own_places(len(batch)) if batch.place is None else batch.place
        return self.network.masks(places, self._step)

    def _start_dense(self, optimizers: Optimizers) -> None:
        self.train_dense(optimizers.dense(self.network.dense_parameters))

    def _send_dense_grads(self) -> Any:
        return SummedGrads.launch(self.comm, "dense_grad", self.network.dense_parameters)

    def _step_dense(self, dense: Any) -> None:
        self.step_dense(dense)

    def _gather_logits(self, logits: Tensor, samples: int) -> Tensor:
        whole = logits.new_empty(samples)
        self.comm.all_gather("logits", whole, logits).wait()
        return whole
