"""The exchange of a batch's inputs between workers: ids, in the three forms that strategies use, and dense features.

    occurrences   every id of a worker's samples with its coordinate, to its owner            des_*, row_wise, mesh
    tables        the sizes of all bags, then the ids in that order, to its table's owner     table_wise
    keys          each distinct id once, to its owner                                         row_all_to_all, ps_*

The owner of an id is the worker that h(id) names (des_ref.hashing); that of a table is its number modulo N, unless a
plan names it (`TableOwners`).

A *bag* is the ids of one field of one sample. Replies (pooled bags, rows) and the messages of backward keep the order
of the request, so no index is sent twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.async_device import is_asynchronous
from des_ref.comm import Comm, Handle
from des_ref.data.batch import Batch
from des_ref.hashing import owner_of
from des_ref.strategies.base import Lane
from des_ref.strategies.hot_rows import HotRows
from des_ref.substitution.owned import (
    OwnedOccurrences,
    SortedKeys,
    bag_sizes,
    first_of_runs,
    sorted_by,
    stable_order,
    unique_with_index,
)
from des_ref.substitution.sums import Groups, tally, tally_where
from dessim.errors import UsageError
from dessim.trace.schema import Phase

_INT32_MAX = 2**31 - 1

OwnerFunction = Callable[[Tensor, Tensor], Tensor]  # (ids [n], field [n]) -> the owning worker [n]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Numbers of entries to send to each rank and to receive from it, and the latter on the device."""

    to_send: list[int]
    to_receive: list[int]
    received: Tensor


def _exchange_counts(comm: Comm, to_send: Tensor) -> _Sizes:
    """An AllToAll of sizes before one with uneven sizes; the host reads both lists in one device sync."""
    received = torch.empty_like(to_send)
    comm.all_to_all("id_counts", received, to_send, None, None).wait()
    return _Sizes(*torch.stack([to_send, received]).tolist(), received)


def _tally_in_order(numbers: Tensor, order: Tensor, bins: int) -> Tensor:
    """As `tally`, for numbers that `order` sorts: on a GPU, searching the sorted numbers is faster than adding up."""
    if not is_asynchronous(numbers.device):
        return tally(numbers, bins)
    starts = Groups.of(numbers[order], bins).starts
    return torch.cat([starts[1:], starts.new_full((1,), len(numbers))]) - starts


def gather_dense(batch: Batch, comm: Comm) -> tuple[Tensor | None, Handle | None]:
    """The dense features [B, d] of the global batch, valid after the handle's wait; float32 whatever the weights are.

    None where the model reads none; nothing is sent then.
    """
    if batch.dense is None:
        return None, None
    whole = batch.dense.new_empty(len(batch) * comm.world_size, batch.dense.shape[1])
    return whole, comm.all_gather("dense_inputs", whole, batch.dense.contiguous())


# -- occurrences ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OccurrenceMessages:
    """Received occurrences of owned ids, as sent: `counts[r]` of them from rank r.

    rows      int32 [n, 3]: the id's 64 bits in two columns, and its coordinate, local sample * F + field; with bag
              sizes a fourth column, the number of ids in the bag
    received  `counts` on the device
    """

    rows: Tensor
    counts: list[int]
    received: Tensor


def send_occurrences(
    batch: Batch, owner_of: OwnerFunction, lane: Lane, fields: int, with_bag_sizes: bool = False
) -> OccurrenceMessages:
    """Send every id of `batch` to its owner, in 12 bytes, or 16 with the size of its bag.

    The sender's rank, known from the split sizes, makes the local sample number global. Raises UsageError if a
    coordinate would not fit an int32.
    """
    if len(batch) * fields > _INT32_MAX:
        raise UsageError(f"{len(batch)} samples x {fields} fields a worker do not fit an int32 coordinate")
    comm = lane.comm
    with lane.marks.segment("split_ids", Phase.INPUT):
        owner = owner_of(batch.ids, batch.field)
        order = stable_order(owner)
        coordinate = (batch.sample * fields + batch.field).to(torch.int32)
        columns = [batch.ids.view(torch.int32).view(-1, 2), coordinate[:, None]]
        if with_bag_sizes:
            columns.append(bag_sizes(coordinate, len(batch) * fields)[:, None].to(torch.int32))
        message = torch.cat(columns, dim=1).index_select(0, order)
        to_send = _tally_in_order(owner, order, comm.world_size)
    sizes = _exchange_counts(comm, to_send)
    rows = message.new_empty(sum(sizes.to_receive), message.shape[1])
    comm.all_to_all("ids", rows, message, sizes.to_receive, sizes.to_send).wait()
    return OccurrenceMessages(rows, sizes.to_receive, sizes.received)


def unpack_occurrences(messages: OccurrenceMessages, samples: int, fields: int) -> tuple[Tensor, OwnedOccurrences]:
    """The distinct owned ids [u] of the global batch of `samples`, and their occurrences."""
    rows = messages.rows
    counts = messages.counts
    share = samples // len(counts)
    # Clone even one row or none: such a slice counts as contiguous whatever its strides, and `view` needs real ones.
    ids = rows[:, :2].clone(memory_format=torch.contiguous_format).view(torch.int64)[:, 0]
    coordinate = rows[:, 2].to(torch.int64)
    first_sample = torch.arange(len(counts), device=rows.device) * share  # of each rank
    source = torch.repeat_interleave(first_sample, messages.received, output_size=len(rows))
    local_sample = coordinate // fields
    sample = source + local_sample
    field = coordinate - local_sample * fields
    optional = () if rows.shape[1] == 3 else (rows[:, 3],)  # bag sizes
    bag, ids, sample, field, *optional = sorted_by(source * fields + coordinate, ids, sample, field, *optional)
    keys = SortedKeys.of(ids)
    distinct, pairs = _sizes_in_one_sync(keys, bag, field, fields)
    unique, row_index = keys.distinct(distinct)
    bag_size = optional[0] if optional else None
    return unique, OwnedOccurrences(
        sample, field, row_index, samples=samples, fields=fields, bag_size=bag_size, known_pairs=pairs
    )


def _sizes_in_one_sync(
    keys: SortedKeys, bag: Tensor, field: Tensor, fields: int
) -> tuple[int | None, list[int] | None]:
    """The number of distinct keys, and of occupied bags in each field; None on a CPU, where no sync is to be saved."""
    if not is_asynchronous(bag.device):
        return None, None
    pairs = tally_where(first_of_runs(bag), field, fields)
    distinct, *of_fields = torch.cat([keys.is_first.sum()[None], pairs]).tolist()
    return distinct, of_fields


# -- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TableIds:
    """Ids of the tables that this worker owns, over the global batch.

    ids   int64 [n], in the order of their bags
    bag   int64 [n], which of the N * f * b bags, ordered by (sending rank, own table, local sample)
    """

    ids: Tensor
    bag: Tensor


@dataclass(frozen=True, slots=True)
class TableOwners:
    """The owners of F tables on N ranks.

    counts  the number of tables of each rank, [N]
    owner   int64 [F], the owner of each field's table
    order   int64 [F], fields in the order of their owners, rank 0's tables, then rank 1's, ...
    place   int64 [F], the place of each field in `order`
    """

    counts: tuple[int, ...]
    owner: Tensor
    order: Tensor
    place: Tensor

    @classmethod
    def of(cls, of_field: Sequence[int], ranks: int, device: torch.device) -> TableOwners:
        """Field f's table is on rank `of_field[f]`."""
        owner = torch.tensor(of_field, device=device)
        order = owner.argsort(stable=True)
        return cls(tuple(map(of_field.count, range(ranks))), owner, order, order.argsort())

    @classmethod
    def in_turn(cls, fields: int, ranks: int, device: torch.device) -> TableOwners:
        """Table f on rank f mod N."""
        return cls.of([field % ranks for field in range(fields)], ranks, device)

    def fields(self, rank: int) -> Tensor:
        """int64: the fields whose tables a rank owns."""
        return self.order.split(list(self.counts))[rank]


def send_tables(batch: Batch, lane: Lane, owners: TableOwners) -> TableIds:
    """Send ids to the owners of their tables. Bag sizes (int32) go first and determine how many ids follow."""
    comm = lane.comm
    n = lane.comm.world_size
    b = len(batch)
    bags_of_rank = [tables * b for tables in owners.counts]  # bags of this worker's samples, by owner
    with lane.marks.segment("split_ids", Phase.INPUT):
        bag = owners.place[batch.field] * b + batch.sample
        ids = batch.ids[stable_order(bag)]
        lengths = tally(bag, len(owners.order) * b).to(torch.int32)
        counts = torch.stack([part.sum() for part in lengths.split(bags_of_rank)])
    own_bags = bags_of_rank[comm.rank]
    received_lengths = lengths.new_empty(n * own_bags)
    comm.all_to_all("lengths", received_lengths, lengths, [own_bags] * n, bags_of_rank).wait()
    to_send, to_receive = torch.stack([counts, received_lengths.view(n, own_bags).sum(dim=1)]).tolist()
    out = ids.new_empty(sum(to_receive))
    comm.all_to_all("ids", out, ids, to_receive, to_send).wait()
    return TableIds(out, torch.repeat_interleave(received_lengths.to(torch.int64), output_size=len(out)))


# -- keys -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """The distinct ids of a worker's own samples, ordered by owner; hot ids, which need no request, come last.

    unique    int64 [u]
    inverse   int64 [n], which of them each occurrence is
    sizes     number of keys of each owner
    counts    the same on the device, int64 [owners]
    hot       int64 [h], places among the hot rows of the last h keys; None: the strategy has no hot rows
    """

    unique: Tensor
    inverse: Tensor
    sizes: list[int]
    counts: Tensor
    hot: Tensor | None = None

    @classmethod
    def of(cls, ids: Tensor, owners: int, hot_rows: HotRows | None = None) -> Keys:
        unique, index = unique_with_index(ids)
        owner = owner_of(unique, owners)
        if hot_rows is not None:
            hot_place = hot_rows.find(unique)
            owner = torch.where(hot_place < 0, owner, owners)  # sorts hot ids behind all owners
        order = stable_order(owner)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        counts = _tally_in_order(owner, order, owners + 1)[:owners]
        sizes = counts.tolist()
        hot = hot_place[order][sum(sizes) :] if hot_rows is not None else None
        return cls(unique[order], place[index.row], sizes, counts, hot)

    @property
    def cold(self) -> Tensor:
        """The keys that are requested from their owners."""
        return self.unique[: sum(self.sizes)]


@dataclass(frozen=True, slots=True)
class RequestedKeys:
    """The keys that an owner is asked for, int64: `sizes[r]` from rank r, rank by rank."""

    keys: Tensor
    sizes: list[int]


def request_keys(ids: Tensor, lane: Lane, name: str, hot_rows: HotRows | None = None) -> tuple[Keys, RequestedKeys]:
    """Send the distinct ones of `ids` to their owners in the AllToAll `name`; also returns the requests received."""
    comm = lane.comm
    with lane.marks.segment("split_ids", Phase.INPUT):
        keys = Keys.of(ids, comm.world_size, hot_rows)
    sizes = _exchange_counts(comm, keys.counts)
    requested = ids.new_empty(sum(sizes.to_receive))
    comm.all_to_all(name, requested, keys.cold, sizes.to_receive, keys.sizes).wait()
    return keys, RequestedKeys(requested, sizes.to_receive)
