"""Replicas of the tables, executed: the ops of dessim/workload/replicas.py.

    replica_counts -> replica_ids, replica_grads (all_gather) -> replica_sum -> update_rows

Each block of workers has all tables, so workers with the same place in their blocks own the same rows. They exchange
their gradients and add them up in the order of the blocks, so their sums and copies are bit-identical.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from des_ref.embedding.by_width import TablesByWidth
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.widths import packed, unpacked
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Marks, mean_width
from des_ref.strategies.in_turn import Part
from des_ref.strategies.padding import is_real, padded
from des_ref.strategies.sharded_base import RowGradients
from des_ref.strategies.table_group import GroupComm
from des_ref.substitution.owned import unique_with_index
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True)
class JointGradients:
    """The gradients of the rows that any replica touched, and the size of each replica's message.

    With its padding, a message has `most` ids and `lines` rows, or `lines` floats where tables differ in width.
    """

    grads: RowGradients
    most: int
    lines: int

    def counted(self, counts: Counts, network: Network) -> Counts:
        """`counts` of a block with those of the exchange."""
        floats = network.floats(self.grads.ids)
        return replace(
            counts,
            exchanged=self.most,
            exchanged_floats=self.lines if floats else 0,
            joint=len(self.grads.rows),
            joint_floats=floats,
        )


@dataclass(frozen=True, slots=True)
class BlockGradients:
    """The gradients of a group's rows from the samples of this worker's block, and those of all replicas, if any."""

    own: RowGradients
    joint: JointGradients | None = None

    @property
    def summed(self) -> RowGradients:
        """The sum over the replicas."""
        return self.own if self.joint is None else self.joint.grads

    def counted(self, counts: Counts, network: Network) -> Counts:
        """`counts` of the block, with those of the exchange between replicas."""
        return counts if self.joint is None else self.joint.counted(counts, network)


def sum_over_replicas(
    own: RowGradients, comm: GroupComm, network: Network, table: RowTable | TablesByWidth, marks: Marks
) -> Part[JointGradients]:
    """The sum of the gradients of the workers of `comm`, which own the same rows in other replicas."""
    counts = own.ids.new_empty(comm.world_size)
    yield comm.all_gather("replica_counts", counts, own.ids.new_full((1,), len(own.ids)))
    most = int(counts.max())
    ids = own.ids.new_empty(comm.world_size * most)
    of_ids = comm.all_gather("replica_ids", ids, padded(own.ids, most))
    lines = most
    is_line = is_real(counts, most)
    columns = network.has_columns(own.ids)
    is_id = is_line
    if columns is not None:
        yield of_ids
        floats = (network.has_columns(ids) & is_id[:, None]).view(comm.world_size, -1).sum(dim=1)
        lines = int(floats.max())
        is_line = is_real(floats, lines)
    message = padded(packed(own.grad, columns), lines)
    gathered = message.new_empty(comm.world_size * lines, *message.shape[1:])
    of_grads = comm.all_gather("replica_grads", gathered, message)
    if columns is None:
        yield of_ids
    yield of_grads
    with marks.segment("replica_sum", Phase.BACKWARD):
        of_all = ids[is_id]
        unique, index = unique_with_index(of_all)
        summed = index.scatter(unpacked(gathered[is_line], network.has_columns(of_all)), len(unique))
        rows = table.find_or_insert(unique)
    return JointGradients(RowGradients(rows, unique, summed), most, lines)


def op_vars(counts: Counts, block: int) -> dict[str, dict[str, float]]:
    """The symbols of the ops of an exchange, from the counts of a worker of a block of `block` workers."""
    padded_rows = {"U": float(counts.exchanged * block)} | mean_width("WU", counts.exchanged, counts.exchanged_floats)
    joint = {"UR": float(counts.joint * block)}
    # The sum reads the padded rows of all replicas; both kinds of rows have nearly the same mean width.
    return {
        "replica_ids": padded_rows,
        "replica_grads": padded_rows,
        "replica_sum": padded_rows | joint,
        "update_rows": joint | mean_width("WU", counts.joint, counts.joint_floats),
    }
