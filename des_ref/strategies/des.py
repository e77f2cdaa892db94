"""DES executed: the plan of dessim/workload/strategies/des.py, op by op, on real tensors.

    split_ids -> id_counts, ids (all_to_all) -> lookup -> local_partials -> partials (the only sparse communication)
    -> tail_forward -> tail_backward -> local_backward -> shared_grad (overlaps update_rows) -> update_rows
    -> update_dense

The autograd graph is cut at the buffer, so that each piece of backward is its own op of the plan:

    rows --(graph 1)--> buffer | leaf --(graph 2: the collective)--> sums | leaf --(graph 3: the tail)--> loss

Where whole fields live on a worker, local work may be cut into legs by rounds (rounds.py).
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
from des_ref.strategies.base import Counts, Lane, Optimizers, OwnedByHash, StepResult
from des_ref.strategies.exchange import send_occurrences, unpack_occurrences
from des_ref.strategies.grads import SummedGrads
from des_ref.strategies.mid_reductions import MidReductions
from des_ref.strategies.scoring import Scoring
from des_ref.substitution.owned import OwnedOccurrences, sizes_of_bags
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True)
class _Sent:
    """What has come for a batch: messages [n, 3] int32 and how many from each rank; the labels that the tail needs."""

    message: Tensor
    received: list[int]
    labels: Tensor


class _Des(OwnedByHash):
    """What both variants share: ids to owners, partials, sparse backward and update."""

    name: str
    loss_is_share: bool

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm) -> None:
        self.goes_by_field = network.model.by_field
        super().__init__(network, optimizers, comm)
        self._rounds = MidReductions(comm)
        if network.model.by_field:
            network.keep_fields(range(comm.rank, network.fields, comm.world_size))
            network.sum_fields = self._rounds.sum
        network.largest = self._rounds.largest
        self._scoring = Scoring(network, comm, self.loss_is_share) if network.model.output is not None else None
        self.train_dense(optimizers.dense(network.trained_parameters))

    def owner(self, ids: Tensor, field: Tensor) -> Tensor:
        n = self.comm.world_size
        if not self.network.model.by_field:
            return owner_of(ids, n)
        # Of few fields looked up: a division for each id takes five times as long.
        return (torch.arange(self.network.fields, device=field.device) % n).index_select(0, field)

    def settle(self) -> None:
        """Field placement: the whole of each parameter whose columns are spread over workers, and its gradient."""
        network = self.network
        own = torch.tensor(network.own_fields, dtype=torch.int64, device=network.device)
        for o in network.owned:
            whole = [self._gathered(mine, own, o.columns) for mine in (o.mine.detach(), o.mine.grad)]
            o.whole.data, o.whole.grad = whole

    def _gathered(self, mine: Tensor, own: Tensor, columns: int) -> Tensor:
        whole = mine.new_zeros(*mine.shape[:-1], self.network.fields, columns)
        whole[..., own, :] = mine.unflatten(-1, (len(own), columns))
        self.comm.all_reduce("settle", whole).wait()  # each column has one owner: adding zeros is exact
        return whole.flatten(-2)

    def send(self, batch: Batch, lane: Lane | None = None) -> _Sent:
        lane = lane or Lane(self.comm, self.marks)
        labels, ready = self._labels(batch, len(batch) * lane.comm.world_size, lane.comm)
        model = self.network.model
        sizes = model.pools_mean and not model.by_field
        message, received = send_occurrences(batch, self.owner, lane, model.input.fields, sizes)
        if ready is not None:
            ready.wait()
        return _Sent(message, received, labels)

    def step(self, batch: Batch, sent: _Sent | None = None) -> StepResult:
        comm, network, mark = self.comm, self.network, self.marks.segment
        samples = len(batch) * comm.world_size
        sent = sent or self.send(batch)
        with mark("lookup", Phase.FORWARD):
            unique, held = self._unpack(sent, samples)
            rows = self.table.find_or_insert(unique)
            self.note_fields(rows, held.inverse, held.field)
            values = self.table.values(unique, rows, tuple(network.row_widths))
            for value in values.values():
                value.requires_grad_()
        with self._rounds.legs(self.marks, "local_partials", Phase.FORWARD):
            buffer = self._partials(values, held)
        below = buffer.detach().requires_grad_()
        sums = self._sum(below, held.lines.get_ready)
        with mark("tail_forward", Phase.FORWARD):
            above = sums.detach().requires_grad_()
            out = network.tail(above, self._masks(samples))
            loss = network.objective.loss(out, sent.labels) / samples
        told, roots, gradients = loss.detach(), [loss], [None]
        if self._scoring is not None:
            scored = self._scoring.train(out.detach(), values["o"].detach(), held, sent.labels, self.marks)
            told, values["o"].grad = told + scored.losses.sum() / samples, scored.outputs_grad
            roots, gradients = [loss, out], [None, scored.grad]
        with mark("tail_backward", Phase.BACKWARD):
            self._dense.zero_grad(set_to_none=True)
            torch.autograd.backward(roots, gradients)
            self._share_of_shared_grads()
        self._backward_of_sum(sums, above.grad)
        tail = self._tail_grads()  # after what everything else waits for
        with self._rounds.legs(self.marks, "local_backward", Phase.BACKWARD):
            buffer.backward(below.grad)
        # A partial sum under hash placement; rows do not wait for it.
        shared = SummedGrads.launch(comm, "shared_grad", network.shared_parameters)
        grads = {name: value.grad for name, value in values.items()}
        with mark("update_rows", Phase.OPTIMIZER):
            self.update_rows(rows, grads)
        self.step_dense(shared, tail)
        self._step += 1
        pairs = len(held.pair_bag) if network.pools else 0
        counts = Counts(len(batch.ids), len(held.sample), len(rows), pairs)
        return StepResult(told, counts, unique, grads, out.detach(), sent.labels)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        samples = len(batch) * self.comm.world_size
        sent = self.send(batch)
        unique, held = self._unpack(sent, samples)
        values = self.table.gather(unique, tuple(self.network.row_widths))
        out = self.network.tail(self._sum(self._partials(values, held)))
        if self._scoring is not None:
            out = out[:, -1] + self._scoring.losses(out, values["o"], held, sent.labels)
        return self._gather_logits(out, samples)

    def _unpack(self, sent: _Sent, samples: int) -> tuple[Tensor, OwnedOccurrences]:
        network = self.network
        unique, held = unpack_occurrences((sent.message, sent.received), samples, network.fields)
        if network.model.pools_mean and network.model.by_field:
            held = replace(held, bag_size=sizes_of_bags(held.bag))
        return unique, held

    def _partials(self, values: Mapping[str, Tensor], held: OwnedOccurrences) -> Tensor:
        self._rounds.restart()
        return self.network.partials(values, held)

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        n = self.comm.world_size
        sent = {"m": counts.ids_sent * n / samples}
        # What this worker holds, said as the means that the formulas expect: B m / N ids, U / N rows, B q pairs.
        held = {"m": counts.ids_held * n / samples, "U": float(counts.rows * n), "q": counts.pairs / samples}
        if self.network.model.by_field:
            held["q"] = float(len(self.network.own_fields))
        scoring = ("scores", "exponentials", "scores_backward")
        below = ("lookup", "local_partials", *scoring, "local_backward", "update_rows")
        legs = [op.name for op in self.plan.ops if op.name.startswith(("local_partials_", "local_backward_"))]
        return {"split_ids": sent, "ids": sent} | dict.fromkeys((*below, *legs), held)

    # -- what the variants do differently -------------------------------------------------------------------------

    def _labels(self, batch: Batch, samples: int, comm: Comm) -> tuple[Tensor, Handle | None]:
        """Those of the whole batch."""
        own = self.network.objective.targets(batch)
        labels = own.new_empty(samples, *own.shape[1:])
        return labels, comm.all_gather("labels", labels, own)

    def _sum(self, buffer: Tensor, meanwhile: Callable[[], None] = nothing) -> Tensor:
        """Over workers; `meanwhile` is done while it is under way."""
        raise NotImplementedError

    def _masks(self, samples: int) -> list[Tensor] | None:
        raise NotImplementedError

    def _backward_of_sum(self, sums: Tensor, grad: Tensor) -> None:
        sums.backward(grad)

    def _share_of_shared_grads(self) -> None:
        """Leave in the shared weights' gradients what this worker has to add for its tail."""

    def _tail_grads(self) -> SummedGrads:
        return SummedGrads(())

    def _gather_logits(self, logits: Tensor, samples: int) -> Tensor:
        return logits


class DesAllReduce(_Des):
    """DES-AR, the paper's: AllReduce of [B, K], the dense tail replicated on the whole batch."""

    name = "des_all_reduce"
    loss_is_share = False

    def _sum(self, buffer: Tensor, meanwhile: Callable[[], None] = nothing) -> Tensor:
        return SumFeedingReplicas.apply(buffer, self.comm, "partials", meanwhile)

    def _masks(self, samples: int) -> list[Tensor] | None:
        return self.network.masks(samples, self._step)

    def _share_of_shared_grads(self) -> None:
        # A tail that reads shared weights (DCN's c . w) has found the whole gradient on every replica: one brings it.
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

    def _sum(self, buffer: Tensor, meanwhile: Callable[[], None] = nothing) -> Tensor:
        return SumScattered.apply(buffer, self.comm, "partials", "partials_grad", meanwhile)

    def _masks(self, samples: int) -> list[Tensor] | None:
        masks = self.network.masks(samples, self._step)
        share = samples // self.comm.world_size
        own = slice(self.comm.rank * share, (self.comm.rank + 1) * share)
        return None if masks is None else [mask[own] for mask in masks]

    def _tail_grads(self) -> SummedGrads:
        return SummedGrads.launch(self.comm, "tail_grad", self.network.tail_parameters)

    def _gather_logits(self, logits: Tensor, samples: int) -> Tensor:
        whole = logits.new_empty(samples)
        self.comm.all_gather("logits", whole, logits).wait()
        return whole
