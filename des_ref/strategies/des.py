"""DES executed: the plan of dessim/workload/strategies/des.py, op by op, on real tensors.

    split_ids -> id_counts, ids (all_to_all) -> lookup -> local_partials -> partials (the only sparse communication)
    -> tail_forward -> tail_backward -> local_backward -> shared_grad (overlaps update_rows) -> update_rows
    -> update_dense

The autograd graph is cut at the buffer, so that each piece of backward is its own op of the plan:

    rows --(graph 1)--> buffer | leaf --(graph 2: the collective)--> sums | leaf --(graph 3: the tail)--> loss

Where whole fields are placed on workers, local work may be cut into legs by further collectives (mid_reductions.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from des_ref.comm import Comm, Handle, SumFeedingReplicas, SumScattered, nothing
from des_ref.data.batch import Batch
from des_ref.hashing import owner_of
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Lane, Optimizers, StepResult
from des_ref.strategies.dense_state import gather_columns
from des_ref.strategies.exchange import OccurrenceMessages, gather_dense, send_occurrences, unpack_occurrences
from des_ref.strategies.grads import SummedGrads
from des_ref.strategies.mid_reductions import MidReductions
from des_ref.strategies.scoring import Scoring
from des_ref.strategies.strategy_base import StrategyBase
from des_ref.substitution.owned import OwnedOccurrences, bag_sizes
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Result of `send`: the occurrences of ids that this worker owns, and the labels and dense features of its tail."""

    occurrences: OccurrenceMessages
    labels: Tensor
    dense: Tensor | None


@dataclass(frozen=True, slots=True)
class _OwnedRows:
    """The u distinct owned ids of a step, their row numbers, their values [u, width] by column, and occurrences."""

    ids: Tensor
    rows: Tensor
    values: Mapping[str, Tensor]
    owned: OwnedOccurrences


@dataclass(frozen=True, slots=True)
class _TailResult:
    """This worker's loss, the tail's output, and the gradient of the sums that the tail read."""

    loss: Tensor
    out: Tensor
    sums_grad: Tensor


class _Des(StrategyBase):
    """Both variants share: ids to owners, partials, sparse backward and update."""

    name: str
    loss_is_share: bool

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm) -> None:
        self.placed_by_field = network.model.by_field
        super().__init__(network, optimizers, comm)
        self._mid_reductions = MidReductions(comm)
        if network.model.by_field:
            network.keep_fields(range(comm.rank, network.fields, comm.world_size))
            network.sum_fields = self._mid_reductions.sum
        network.max_over_workers = self._mid_reductions.max
        self._scoring = Scoring(network, comm, self.loss_is_share) if network.model.output is not None else None
        self.train_dense(optimizers.dense(network.trained_parameters))

    def owner(self, ids: Tensor, field: Tensor) -> Tensor:
        n = self.comm.world_size
        if not self.network.model.by_field:
            return owner_of(ids, n)
        # Look owners up by field; computing `field % n` for every id is five times slower.
        return (torch.arange(self.network.fields, device=field.device) % n).index_select(0, field)

    def settle(self) -> None:
        """Under field placement, gather each parameter whose columns are spread over workers, and its gradient."""
        for owned in self.network.owned_columns:
            whole = gather_columns("settle", owned.mine.detach(), owned, self.comm)
            grad = gather_columns("settle", owned.mine.grad, owned, self.comm)
            owned.whole.data = whole
            owned.whole.grad = grad

    # -- a step ---------------------------------------------------------------------------------------------------

    def send(self, batch: Batch, lane: Lane | None = None) -> _Inputs:
        lane = lane or Lane(self.comm, self.marks)
        batch = self.network.keyed(batch)
        labels, labels_ready = self._labels(batch, len(batch) * lane.comm.world_size, lane.comm)
        dense, dense_ready = self._dense_features(batch, lane.comm)
        model = self.network.model
        # The owner of an id must know the size of its bag, whose other ids may be on other workers.
        needs_bag_sizes = model.pools_mean and not model.by_field
        occurrences = send_occurrences(batch, self.owner, lane, model.input.fields, needs_bag_sizes)
        for ready in (labels_ready, dense_ready):
            if ready is not None:
                ready.wait()
        return _Inputs(occurrences, labels, dense)

    def step(self, batch: Batch, sent: _Inputs | None = None) -> StepResult:
        network = self.network
        samples = len(batch) * self.comm.world_size
        sent = sent or self.send(batch)
        look_up = self._look_up(sent, samples)
        owned = look_up.owned
        values = look_up.values
        with self._mid_reductions.legs(self.marks, "local_partials", Phase.FORWARD):
            buffer = self._partials(values, owned)
        below = buffer.detach().requires_grad_()
        sums = self._sum(below, owned.row_index.prepare_backward)
        tail = self._train_tail(sums, look_up, sent, samples)
        self._backward_of_sum(sums, tail.sums_grad)
        tail_grads = self._tail_grads()  # launched after the collective that all further work waits for
        with self._mid_reductions.legs(self.marks, "local_backward", Phase.BACKWARD):
            buffer.backward(below.grad)
        # A partial sum under hash placement; the update of rows does not wait for it.
        shared_grads = SummedGrads.launch(self.comm, "shared_grad", network.shared_parameters)
        grads = {name: value.grad for name, value in values.items()}
        with self.marks.segment("update_rows", Phase.OPTIMIZER):
            self.update_rows(look_up.rows, grads)
        self.step_dense(shared_grads, tail_grads)
        self._step += 1
        counts = Counts(
            ids_sent=len(batch.ids),
            ids_owned=len(owned.sample),
            rows=len(look_up.rows),
            pairs=len(owned.pair_bag) if network.pools else 0,
        )
        return StepResult(
            loss=tail.loss, counts=counts, row_ids=look_up.ids, row_grads=grads, out=tail.out, targets=sent.labels
        )

    def _look_up(self, sent: _Inputs, samples: int) -> _OwnedRows:
        with self.marks.segment("lookup", Phase.FORWARD):
            ids, owned = self._unpack(sent, samples)
            rows = self.table.find_or_insert(ids)
            self.note_fields(rows, owned.inverse, owned.field)
            values = self.table.values(ids, rows, tuple(self.network.row_widths))
            for value in values.values():
                value.requires_grad_()
        return _OwnedRows(ids, rows, values, owned)

    def _train_tail(self, sums: Tensor, look_up: _OwnedRows, sent: _Inputs, samples: int) -> _TailResult:
        """Forward and backward above the sums; also sets the gradients of the output rows `o` where they are scored."""
        network = self.network
        with self.marks.segment("tail_forward", Phase.FORWARD):
            above = sums.detach().requires_grad_()
            out = network.tail(above, self._masks(samples), sent.dense)
            loss = network.objective.loss(out, sent.labels) / samples
        total_loss = loss.detach()
        roots = [loss]
        root_grads = [None]
        if self._scoring is not None:
            outputs = look_up.values["o"]
            scored = self._scoring.train(out.detach(), outputs.detach(), look_up.owned, sent.labels, self.marks)
            total_loss = total_loss + scored.losses.sum() / samples
            outputs.grad = scored.outputs_grad
            roots = [loss, out]
            root_grads = [None, scored.tail_grad]
        with self.marks.segment("tail_backward", Phase.BACKWARD):
            self._dense.zero_grad(set_to_none=True)
            torch.autograd.backward(roots, root_grads)
            self._share_of_shared_grads()
        return _TailResult(total_loss, out.detach(), above.grad)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        samples = len(batch) * self.comm.world_size
        sent = self.send(batch)
        ids, owned = self._unpack(sent, samples)
        values = self.table.gather(ids, tuple(self.network.row_widths))
        out = self.network.tail(self._sum(self._partials(values, owned)), dense=sent.dense)
        if self._scoring is not None:
            out = out[:, -1] + self._scoring.losses(out, values["o"], owned, sent.labels)
        return self._gather_logits(out, samples)

    def _unpack(self, sent: _Inputs, samples: int) -> tuple[Tensor, OwnedOccurrences]:
        network = self.network
        ids, owned = unpack_occurrences(sent.occurrences, samples, network.fields)
        if network.model.pools_mean and network.model.by_field:
            owned = replace(owned, bag_size=bag_sizes(owned.bag, samples * network.fields))
        return ids, owned

    def _partials(self, values: Mapping[str, Tensor], owned: OwnedOccurrences) -> Tensor:
        self._mid_reductions.restart()
        return self.network.partials(values, owned)

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        n = self.comm.world_size
        sent = {"m": counts.ids_sent * n / samples}
        # This worker's sizes, scaled to the means that the formulas expect: B m / N ids, U / N rows, B q pairs.
        owned = {"m": counts.ids_owned * n / samples, "U": float(counts.rows * n), "q": counts.pairs / samples}
        if self.network.model.by_field:
            owned["q"] = float(len(self.network.own_fields))
        scoring = ("scores", "exponentials", "scores_backward")
        below = ("lookup", "local_partials", *scoring, "local_backward", "update_rows")
        legs = [op.name for op in self.plan.ops if op.name.startswith(("local_partials_", "local_backward_"))]
        return {"split_ids": sent, "ids": sent} | dict.fromkeys((*below, *legs), owned)

    # -- where the variants differ --------------------------------------------------------------------------------

    def _labels(self, batch: Batch, samples: int, comm: Comm) -> tuple[Tensor, Handle | None]:
        """The labels of the whole batch, valid once the handle has been waited for."""
        own = self.network.objective.targets(batch)
        labels = own.new_empty(samples, *own.shape[1:])
        return labels, comm.all_gather("labels", labels, own)

    def _dense_features(self, batch: Batch, comm: Comm) -> tuple[Tensor | None, Handle | None]:
        """The dense features of the samples of this worker's tail, valid once the handle has been waited for."""
        return gather_dense(batch, comm)

    def _sum(self, buffer: Tensor, overlap: Callable[[], None] = nothing) -> Tensor:
        """The sum of the workers' `buffer` [B, K]; `overlap` runs while the collective is in flight."""
        raise NotImplementedError

    def _masks(self, samples: int) -> list[Tensor] | None:
        raise NotImplementedError

    def _backward_of_sum(self, sums: Tensor, grad: Tensor) -> None:
        sums.backward(grad)

    def _share_of_shared_grads(self) -> None:
        """Keep only what this worker must contribute to the gradients of shared weights for its tail."""

    def _tail_grads(self) -> SummedGrads:
        return SummedGrads(())

    def _gather_logits(self, logits: Tensor, samples: int) -> Tensor:
        return logits


class DesAllReduce(_Des):
    """DES-AR, the paper's variant: AllReduce of [B, K], the dense tail replicated on the whole batch."""

    name = "des_all_reduce"
    loss_is_share = False

    def _sum(self, buffer: Tensor, overlap: Callable[[], None] = nothing) -> Tensor:
        return SumFeedingReplicas.apply(buffer, self.comm, "partials", overlap)

    def _masks(self, samples: int) -> list[Tensor] | None:
        return self.network.masks(torch.arange(samples, device=self.network.device), self._step)

    def _share_of_shared_grads(self) -> None:
        # If the tail reads shared weights (DCN's c . w), every replica has the whole gradient: only rank 0 contributes.
        if self.comm.rank:
            for p in self.network.shared_parameters:
                p.grad = None


class DesReduceScatter(_Des):
    """DES-RS: ReduceScatter of [B, K], each worker's tail on its own B/N samples, tail gradients all-reduced."""

    name = "des_reduce_scatter"
    loss_is_share = True

    def _labels(self, batch: Batch, samples: int, comm: Comm) -> tuple[Tensor, Handle | None]:
        if self._scoring is not None:  # every worker scores the whole batch
            return super()._labels(batch, samples, comm)
        return self.network.objective.targets(batch), None

    def _dense_features(self, batch: Batch, comm: Comm) -> tuple[Tensor | None, Handle | None]:
        return batch.dense, None

    def _sum(self, buffer: Tensor, overlap: Callable[[], None] = nothing) -> Tensor:
        return SumScattered.apply(buffer, self.comm, "partials", "partials_grad", overlap)

    def _masks(self, samples: int) -> list[Tensor] | None:
        return self.network.masks(self.own_places(samples // self.comm.world_size), self._step)

    def _tail_grads(self) -> SummedGrads:
        return SummedGrads.launch(self.comm, "tail_grad", self.network.tail_parameters)

    def _gather_logits(self, logits: Tensor, samples: int) -> Tensor:
        whole = logits.new_empty(samples)
        self.comm.all_gather("logits", whole, logits).wait()
        return whole
