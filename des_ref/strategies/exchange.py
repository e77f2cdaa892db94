"""Ids on their way to the workers that hold their rows, in the three forms that strategies send them.

    occurrences   every id of a worker's samples with its coordinate, to its owner      des_*, row_wise, mesh
    tables        the lengths of all bags, then the ids in that order: table f mod N    table_wise
    keys          each different id once, to its owner                                  row_all_to_all, ps_*

The owner of an id is the worker that h(id) names (des_ref.hashing); that of a table its number modulo N.

A *bag* is the ids of one field of one sample. What comes back (pooled bags, rows) and what goes out in backward has the
order of what was sent, so that no index travels twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.hashing import owner_of
from des_ref.strategies.base import Lane
from des_ref.strategies.hot_rows import HotRows
from des_ref.substitution.owned import OwnedOccurrences, different, in_order, order_of, sizes_of_bags
from dessim.errors import UsageError
from dessim.trace.schema import Phase

_INT32_MAX = 2**31 - 1

OwnerOf = Callable[[Tensor, Tensor], Tensor]


def _counts_first(comm: Comm, to_send: Tensor) -> list[int]:
    """How many entries come from each rank: a message of its own, before one of uneven sizes."""
    to_receive = torch.empty_like(to_send)
    comm.all_to_all("id_counts", to_receive, to_send, None, None).wait()
    return to_receive.tolist()


# -- occurrences ------------------------------------------------------------------------------------------------------


def send_occurrences(
    batch: Batch, owner_of: OwnerOf, lane: Lane, fields: int, bag_sizes: bool = False
) -> tuple[Tensor, list[int]]:
    """Messages [n, 3] int32 of the ids this worker owns, and how many came from each rank.

    `owner_of(ids, field)` names the worker that owns each row. `bag_sizes`: a fourth column says how many ids the
    bag of an id has, for owners that hold only some of them.

    An id travels as 12 bytes, its 64 bits and an int32 coordinate (local sample * F + field); the sender's rank, known
    from the split sizes, makes the sample global.
    """
    if len(batch) * fields > _INT32_MAX:
        raise UsageError(f"{len(batch)} samples x {fields} fields a worker do not fit an int32 coordinate")
    comm = lane.comm
    with lane.marks.segment("split_ids", Phase.INPUT):
        owner = owner_of(batch.ids, batch.field)
        order = order_of(owner)
        coordinate = (batch.sample * fields + batch.field).to(torch.int32)
        columns = [batch.ids.view(torch.int32).view(-1, 2), coordinate[:, None]]
        if bag_sizes:
            columns.append(sizes_of_bags(coordinate)[:, None].to(torch.int32))
        message = torch.cat(columns, dim=1).index_select(0, order)
        to_send = torch.bincount(owner, minlength=comm.world_size)
    received = _counts_first(comm, to_send)
    out = message.new_empty(sum(received), message.shape[1])
    comm.all_to_all("ids", out, message, received, to_send.tolist()).wait()
    return out, received


def unpack_occurrences(message: tuple[Tensor, list[int]], samples: int, fields: int) -> tuple[Tensor, OwnedOccurrences]:
    """Different ids [u] of the global batch that this worker owns, and where they occur."""
    rows, received = message
    share = samples // len(received)
    # A copy even of one row or none, which counts as contiguous whatever its strides.
    ids = rows[:, :2].clone(memory_format=torch.contiguous_format).view(torch.int64)[:, 0]
    coordinate = rows[:, 2].to(torch.int64)
    first = torch.arange(len(received), device=rows.device) * share
    source = torch.repeat_interleave(first, torch.tensor(received, device=rows.device), output_size=len(rows))
    local = coordinate // fields
    sample, field = source + local, coordinate - local * fields
    more = () if rows.shape[1] == 3 else (rows[:, 3],)  # sizes of bags
    _, ids, sample, field, *more = in_order(source * fields + coordinate, ids, sample, field, *more)
    unique, lines = different(ids)
    return unique, OwnedOccurrences(sample, field, lines, samples, fields, *more)


# -- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TableIds:
    """Ids of the tables that this worker holds, over the global batch.

    ids   int64 [n], in the order of their bags
    bag   int64 [n], which of the N * f * b bags: (rank they come from, own table, local sample)
    """

    ids: Tensor
    bag: Tensor


def tables_of(rank: int, world_size: int, fields: int) -> int:
    """How many of the F tables a rank holds; table f lives on rank f mod N."""
    return len(range(rank, fields, world_size))


def send_tables(batch: Batch, lane: Lane, fields: int) -> TableIds:
    """Ids to the workers that hold their tables. Lengths (int32 a bag) go first and say how many ids follow."""
    comm, n, b = lane.comm, lane.comm.world_size, len(batch)
    sizes = [tables_of(rank, n, fields) * b for rank in range(n)]  # bags a rank holds of this worker's samples
    with lane.marks.segment("split_ids", Phase.INPUT):
        place = table_order(fields, n, batch.ids.device).argsort()
        bag = place[batch.field] * b + batch.sample
        ids = batch.ids[order_of(bag)]
        lengths = torch.bincount(bag, minlength=fields * b).to(torch.int32)
        to_send = [int(part.sum()) for part in lengths.split(sizes)]
    own = sizes[comm.rank]
    arrived = lengths.new_empty(n * own)
    comm.all_to_all("lengths", arrived, lengths, [own] * n, sizes).wait()
    received = arrived.view(n, own).sum(dim=1).tolist()
    out = ids.new_empty(sum(received))
    comm.all_to_all("ids", out, ids, received, to_send).wait()
    return TableIds(out, torch.repeat_interleave(arrived.to(torch.int64), output_size=len(out)))


def table_order(fields: int, world_size: int, device: torch.device) -> Tensor:
    """Fields in the order of the ranks that hold them, int64 [F]: rank 0's tables, then rank 1's, ..."""
    order = [field for rank in range(world_size) for field in range(rank, fields, world_size)]
    return torch.tensor(order, dtype=torch.int64, device=device)


# -- keys -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """The different ids of a worker's own samples, in the order of their owners; last come those it need not ask for.

    unique    int64 [u]
    inverse   int64 [n], which of them each occurrence is
    sizes     how many each owner holds
    hot       places among the hot rows [h] of the last h, whose rows are here; None: there are none
    """

    unique: Tensor
    inverse: Tensor
    sizes: list[int]
    hot: Tensor | None = None

    @classmethod
    def of(cls, ids: Tensor, owners: int, hot: HotRows | None = None) -> Keys:
        unique, inverse = torch.unique(ids, return_inverse=True)
        owner = owner_of(unique, owners)
        if hot is not None:
            places = hot.find(unique)
            owner = torch.where(places < 0, owner, owners)
        order = order_of(owner)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        sizes = torch.bincount(owner, minlength=owners + 1).tolist()[:owners]
        found = places[order][sum(sizes) :] if hot is not None else None
        return cls(unique[order], place[inverse], sizes, found)

    @property
    def cold(self) -> Tensor:
        """Those it asks for."""
        return self.unique[: sum(self.sizes)]


@dataclass(frozen=True, slots=True)
class Asked:
    """Keys that an owner is asked for, int64: `sizes[r]` from rank r, one rank after the other."""

    keys: Tensor
    sizes: list[int]


def send_keys(ids: Tensor, lane: Lane, name: str, hot: HotRows | None = None) -> tuple[Keys, Asked]:
    """Ask the owners of the different ones of `ids` for their rows, in the message `name`; and what others ask."""
    comm = lane.comm
    with lane.marks.segment("split_ids", Phase.INPUT):
        keys = Keys.of(ids, comm.world_size, hot)
        to_send = torch.tensor(keys.sizes, device=ids.device)
    received = _counts_first(comm, to_send)
    asked = ids.new_empty(sum(received))
    comm.all_to_all(name, asked, keys.cold, received, keys.sizes).wait()
    return keys, Asked(asked, received)
