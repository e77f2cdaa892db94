"""Tables on servers, executed: the plan of dessim/workload/strategies/table_row_wise.py, op by op.

    id_counts, ids -> lookup -> pool -> pooled_server (reduce_scatter) -> pooled (all_to_all)
    pooled_grad (all_to_all) -> pooled_grad_server (all_gather) -> scatter_grad

With L workers a server, worker l of server k has rank k L + l. It pools the tables of its server for all samples. The
vectors are ordered by l', then by k', the sample and the table, where worker l' of server k' has the sample. The
ReduceScatter leaves worker l the vectors with l' = l, in one part for each server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm, Handle
from des_ref.embedding.widths import message_sizes, new_message, packed, unpacked
from des_ref.hashing import owner_of
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Optimizers
from des_ref.strategies.exchange import TableOwners, unpack_occurrences
from des_ref.strategies.in_turn import Part
from des_ref.strategies.sharded import NamedOwners
from des_ref.strategies.sharded_base import RowGradients
from dessim.workload.plan import Participants, Plan
from dessim.workload.strategies.table_row_wise import table_row_wise


@dataclass(frozen=True, slots=True)
class ServerComms:
    """The groups of a worker in a job of servers with `size` workers: its `server`, and the workers `between` servers
    that have its place. Every worker calls `of` at the same point."""

    size: int
    server: Comm
    between: Comm

    @classmethod
    def of(cls, comm: Comm, size: int) -> ServerComms:
        own: dict[Participants, Comm] = {}
        for participants in (Participants.SERVER, Participants.BETWEEN):
            groups = dict(participants.group(rank, comm.world_size, size) for rank in range(comm.world_size))
            for ranks in groups.values():
                part = comm.subgroup(ranks)
                if part is not None:
                    own[participants] = part
        return cls(size, own[Participants.SERVER], own[Participants.BETWEEN])


class TableRowWise(NamedOwners):
    """Each table is on the server whose first worker is `owners[f]`, its rows on the workers that a hash names."""

    name = "table_row_wise"

    def __init__(
        self, network: Network, optimizers: Optimizers, comm: Comm, owners: Sequence[int], groups: ServerComms
    ) -> None:
        super().__init__(network, optimizers, comm)
        self._groups = groups
        self._first_worker = torch.tensor(owners, device=network.device)
        servers = comm.world_size // groups.size
        on_servers = TableOwners.of([first // groups.size for first in owners], servers, network.device)
        self._place(on_servers, comm.rank // groups.size)

    def _new_plan(self) -> Plan:
        return table_row_wise(self.network.model)

    def owner(self, ids: Tensor, field: Tensor) -> Tensor:
        return self._first_worker.to(field.device)[field] + owner_of(ids, self._groups.size)

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        symbols = super().op_vars(counts, samples)
        return symbols | dict.fromkeys(("pooled_server", "pooled_grad_server"), symbols["pooled"])

    # -- the bags that this worker pools --------------------------------------------------------------------------

    def _occurrences(self, sent: Any, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        unique, owned = unpack_occurrences(sent, samples, self.network.fields)
        share = samples // self.comm.world_size
        size = self._groups.size
        worker = torch.div(owned.sample, share, rounding_mode="floor")
        server = torch.div(worker, size, rounding_mode="floor")
        group = (worker - server * size) * (self.comm.world_size // size) + server
        first = self._owners.place[self._own_fields[0]] if self._own_tables else 0
        table = self._owners.place[owned.field] - first
        bag = (group * share + owned.sample - worker * share) * self._own_tables + table
        return unique, owned.inverse, bag

    def _fields(self, bag: Tensor, samples: int) -> Tensor:
        return self._own_fields[bag % max(self._own_tables, 1)]

    # -- messages -------------------------------------------------------------------------------------------------

    def _columns_between(self, samples: int) -> Tensor | None:
        """bool: the columns of the bags of own tables for the samples of the workers with this place."""
        return self.network.bags_have_columns(self._own_fields.repeat(samples // self._groups.size))

    def _columns_of_own_samples(self, share: int) -> Tensor | None:
        """bool: the columns of the bags of this worker's samples, server by server, sample by sample."""
        by_server = self._owners.order.split(list(self._owners.counts))
        return self.network.bags_have_columns(torch.cat([fields.repeat(share) for fields in by_server]))

    def _deliver(self, pooled: Tensor, samples: int) -> Part[Tensor]:
        share = samples // self.comm.world_size
        between = self._columns_between(samples)
        has = self._columns_of_own_samples(share)
        summed = new_message(pooled, len(pooled) // self._groups.size, between)
        message = packed(pooled, self._columns(samples))
        yield self._in(self._groups.server).reduce_scatter("pooled_server", summed, message)
        to_send, to_receive = self._splits(samples)
        received = new_message(pooled, sum(to_receive), has)
        sizes = message_sizes(to_receive, has), message_sizes(to_send, between)
        yield self._in(self._groups.between).all_to_all("pooled", received, summed, *sizes)
        return self._by_sample(unpacked(received, has), share)

    def _by_sample(self, bags: Tensor, share: int) -> Tensor:
        """[b * F, W + E], from bags that arrive server by server."""
        counts = self._owners.counts
        of_servers = bags.split([tables * share for tables in counts])
        by_sample = [part.view(share, tables, -1) for part, tables in zip(of_servers, counts, strict=True) if tables]
        return torch.cat(by_sample, dim=1)[:, self._owners.place].reshape(-1, bags.shape[1])

    def _send_back(self, grad: Tensor) -> tuple[Tensor, Handle | None]:
        samples = len(grad) * self.comm.world_size
        by_server = grad[:, self._owners.order].split(list(self._owners.counts), dim=1)
        rows = torch.cat([part.reshape(-1, grad.shape[2]) for part in by_server])
        to_receive, to_send = self._splits(samples)
        between = self._columns_between(samples)
        has = self._columns_of_own_samples(len(grad))
        received = new_message(rows, sum(to_receive), between)
        sizes = message_sizes(to_receive, between), message_sizes(to_send, has)
        return received, self._in(self._groups.between).all_to_all("pooled_grad", received, packed(rows, has), *sizes)

    def _row_grads(self, fetched: Any, grad: Tensor) -> Part[RowGradients]:
        whole = grad.new_empty(len(grad) * self._groups.size, *grad.shape[1:])
        yield self._in(self._groups.server).all_gather("pooled_grad_server", whole, grad)
        return (yield from super()._row_grads(fetched, whole))

    def _in(self, part: Comm) -> Any:
        """A subgroup of the workers, whose ops the recorder of all workers names and watches."""
        return self.comm.within(part)
