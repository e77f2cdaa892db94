"""DES executed: the plan of dessim/workload/strategies/des.py, op by op, on real tensors.

    split_ids -> id_counts, ids (all_to_all) -> lookup -> local_partials -> partials (the only sparse communication)
    -> tail_forward -> tail_backward -> local_backward -> shared_grad (overlaps update_rows) -> update_rows
    -> update_dense

The autograd graph is cut at the buffer, so that each piece of backward is its own op of the plan:

    rows --(graph 1)--> buffer | leaf --(graph 2: the collective)--> sums | leaf --(graph 3: the tail)--> loss

An id travels as 12 bytes, its 64 bits and an int32 coordinate (local sample * F + field); the sender's rank, known from
the split sizes, makes the sample global.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from des_ref.comm import Comm, Handle, SumFeedingReplicas, SumScattered
from des_ref.data.batch import Batch
from des_ref.hashing import owner_of
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Lane, Marks, NoMarks, Optimizers, OwnedByHash, StepResult
from des_ref.strategies.grads import SummedGrads
from des_ref.substitution.held import Held
from dessim.errors import UsageError
from dessim.trace.schema import Phase
from dessim.workload.strategies import plan

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Sent:
    """What has come for a batch: messages [n, 3] int32 and how many from each rank; the labels that the tail needs."""

    message: Tensor
    received: list[int]
    labels: Tensor


@dataclass(frozen=True, slots=True)
class _Arrived:
    """Ids of the global batch that this worker owns: different ones [u], and where they occur."""

    unique: Tensor
    held: Held


class _Des(OwnedByHash):
    """What both variants share: ids to owners, partials, sparse backward and update."""

    name: str
    loss_is_share: bool

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm) -> None:
        self.network, self.comm = network, comm
        self.plan = plan(self.name, network.model)
        self.marks: Marks = NoMarks()
        self.value_bytes = network.dtype.itemsize
        self.table = network.new_table(optimizers.rows, optimizers.init_std)
        self._rows = optimizers.rows
        self._dense = optimizers.dense(network.dense_parameters)
        self._step = 0

    def send(self, batch: Batch, lane: Lane | None = None) -> _Sent:
        lane = lane or Lane(self.comm, self.marks)
        labels, ready = self._labels(batch, len(batch) * lane.comm.world_size, lane.comm)
        message, received = self._ids_to_owners(batch, lane)
        if ready is not None:
            ready.wait()
        return _Sent(message, received, labels)

    def step(self, batch: Batch, sent: _Sent | None = None) -> StepResult:
        comm, network, mark = self.comm, self.network, self.marks.segment
        samples = len(batch) * comm.world_size
        sent = sent or self.send(batch)
        with mark("lookup", Phase.FORWARD):
            arrived = self._unpack(sent, samples)
            rows = self.table.find_or_insert(arrived.unique)
            columns = self.table.columns
            values = {name: columns[name][rows].requires_grad_() for name in network.row_widths}
        with mark("local_partials", Phase.FORWARD):
            buffer = network.partials(values, arrived.held)
        below = buffer.detach().requires_grad_()
        sums = self._sum(below)
        with mark("tail_forward", Phase.FORWARD):
            above = sums.detach().requires_grad_()
            logits = network.tail(above, self._masks(samples))
            labels = sent.labels.to(logits.dtype)
            loss = nnf.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / samples
        with mark("tail_backward", Phase.BACKWARD):
            self._dense.zero_grad(set_to_none=True)
            loss.backward()
            self._share_of_shared_grads()
        tail = self._tail_grads()
        self._backward_of_sum(sums, above.grad)
        with mark("local_backward", Phase.BACKWARD):
            buffer.backward(below.grad)
        # A partial sum under hash placement; rows do not wait for it.
        shared = SummedGrads.launch(comm, "shared_grad", network.shared_parameters)
        grads = {name: value.grad for name, value in values.items()}
        with mark("update_rows", Phase.OPTIMIZER):
            self._rows.update(self.table, rows, grads)
        for summed in (shared, tail):
            summed.wait()
        with mark("update_dense", Phase.OPTIMIZER):
            for summed in (shared, tail):
                summed.unpack()
            self._dense.step()
        self._step += 1
        counts = Counts(len(batch.ids), len(arrived.held.sample), len(rows), len(arrived.held.pair_sample))
        return StepResult(loss.detach(), counts, arrived.unique, grads)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        samples = len(batch) * self.comm.world_size
        arrived = self._unpack(self.send(batch), samples)
        values = self.table.gather(arrived.unique, tuple(self.network.row_widths))
        sums = self._sum(self.network.partials(values, arrived.held))
        return self._gather_logits(self.network.tail(sums), samples)

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        n = self.comm.world_size
        sent = {"m": counts.ids_sent * n / samples}
        # What this worker holds, said as the means that the formulas expect: B m / N ids, U / N rows, B q pairs.
        held = {"m": counts.ids_held * n / samples, "U": float(counts.rows * n), "q": counts.pairs / samples}
        below = {name: held for name in ("lookup", "local_partials", "local_backward", "update_rows")}
        return {"split_ids": sent, "ids": sent} | below

    # -- ids ------------------------------------------------------------------------------------------------------

    def _ids_to_owners(self, batch: Batch, lane: Lane) -> tuple[Tensor, list[int]]:
        """Messages [n, 3] int32 of the ids this worker owns, and how many came from each rank."""
        comm, fields = lane.comm, self.network.fields
        if len(batch) * fields > _INT32_MAX:
            raise UsageError(f"{len(batch)} samples x {fields} fields a worker do not fit an int32 coordinate")
        with lane.marks.segment("split_ids", Phase.INPUT):
            owner = owner_of(batch.ids, comm.world_size)
            order = torch.argsort(owner, stable=True)
            coordinate = (batch.sample * fields + batch.field).to(torch.int32)
            message = torch.cat([batch.ids.view(torch.int32).view(-1, 2), coordinate[:, None]], dim=1)[order]
            to_send = torch.bincount(owner, minlength=comm.world_size)
        to_receive = torch.empty_like(to_send)
        comm.all_to_all("id_counts", to_receive, to_send, None, None).wait()
        received = to_receive.tolist()
        out = message.new_empty(sum(received), 3)
        comm.all_to_all("ids", out, message, received, to_send.tolist()).wait()
        return out, received

    def _unpack(self, sent: _Sent, samples: int) -> _Arrived:
        rows, received = sent.message, sent.received
        fields, share = self.network.fields, samples // self.comm.world_size
        # A copy even of one row or none, which counts as contiguous whatever its strides.
        ids = rows[:, :2].clone(memory_format=torch.contiguous_format).view(torch.int64)[:, 0]
        coordinate = rows[:, 2].to(torch.int64)
        first = torch.arange(len(received), device=rows.device) * share
        source = torch.repeat_interleave(first, torch.tensor(received, device=rows.device), output_size=len(rows))
        unique, inverse = torch.unique(ids, return_inverse=True)
        sample, field = source + coordinate // fields, coordinate % fields
        return _Arrived(unique, Held.of(sample, field, inverse, samples, fields, self.network.pools))

    # -- what the variants do differently -------------------------------------------------------------------------

    def _labels(self, batch: Batch, samples: int, comm: Comm) -> tuple[Tensor, Handle | None]:
        raise NotImplementedError

    def _sum(self, buffer: Tensor) -> Tensor:
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

    def _labels(self, batch: Batch, samples: int, comm: Comm) -> tuple[Tensor, Handle | None]:
        labels = batch.labels.new_empty(samples)
        return labels, comm.all_gather("labels", labels, batch.labels)

    def _sum(self, buffer: Tensor) -> Tensor:
        return SumFeedingReplicas.apply(buffer, self.comm, "partials")

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
        return batch.labels, None

    def _sum(self, buffer: Tensor) -> Tensor:
        return SumScattered.apply(buffer, self.comm, "partials", "partials_grad")

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
