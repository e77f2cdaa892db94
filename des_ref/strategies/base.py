"""The interface of all strategies, what a step takes and returns, and the marks by which a recorder follows a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from torch import Tensor

from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.embedding.by_width import TablesByWidth
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.optim import RowAdagrad, RowOptimizer
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.strategies.dense_state import DenseState
from des_ref.strategies.staleness import StalenessStats
from dessim.trace.schema import Phase
from dessim.workload.plan import Plan

FIELD = "field"  # table column with the field of each row, where the owner of a row follows from its field


class Marks(Protocol):
    """Receives the beginning and end of each compute segment and copy; `name` is the op's name in the plan."""

    def segment(self, name: str, phase: Phase) -> AbstractContextManager[None]: ...

    def copy(self, name: str, phase: Phase, moved: int) -> AbstractContextManager[None]:
        """A copy of `moved` bytes between a device and its host's memory."""
        ...


class NoMarks:
    """Marks of a step that is not recorded."""

    def segment(self, name: str, phase: Phase) -> AbstractContextManager[None]:
        return nullcontext()

    def copy(self, name: str, phase: Phase, moved: int) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(slots=True)
class Lane:
    """The group and the marks of one thread: of the step itself, or of the thread that sends the next batch."""

    comm: Comm
    marks: Marks = field(default_factory=NoMarks)


@dataclass(frozen=True, slots=True)
class Optimizers:
    """Optimizers of rows and of replicated weights; `init_std` and `lifetime` of rows."""

    rows: RowOptimizer = field(default_factory=RowAdagrad)
    dense: DenseOptimizer = field(default_factory=DenseOptimizer)
    init_std: float = 0.01
    lifetime: Lifetime = field(default_factory=Lifetime)


@dataclass(frozen=True, slots=True)
class Counts:
    """The data-dependent sizes of this worker's step; 0 where a strategy has no such quantity.

    ids_sent         ids in this worker's samples
    ids_owned        occurrences, over the global batch, of ids that it owns
    rows             distinct rows that it updates
    pairs            (sample, field) pairs in which owned ids occur, if some operator pools
    keys             distinct ids that it requests from their owners
    requested        keys that other workers (and itself) request from it
    local            of `keys`, those that it owns itself
    hot              distinct ids of its samples that it need not request
    common           of `rows`, those that every worker updates
    cache_misses     rows copied into its cache
    cache_evictions  rows written back from its cache
    exchanged        rows of a message between replicas of the tables, padding included
    joint            rows that it updates, as all replicas do

    Where tables differ in width, also the floats of `rows`, `keys`, `requested`, `exchanged` and `joint`. Where tables
    are spilt, also the floats of missed and evicted rows, and of their optimizer state. `groups` are those of each
    group of tables, where strategies are combined; the others are then their sums.
    """

    ids_sent: int
    ids_owned: int = 0
    rows: int = 0
    pairs: int = 0
    keys: int = 0
    requested: int = 0
    local: int = 0
    hot: int = 0
    common: int = 0
    cache_misses: int = 0
    cache_evictions: int = 0
    row_floats: int = 0
    key_floats: int = 0
    requested_floats: int = 0
    exchanged: int = 0
    exchanged_floats: int = 0
    joint: int = 0
    joint_floats: int = 0
    missed_floats: int = 0
    missed_state: int = 0
    evicted_floats: int = 0
    evicted_state: int = 0
    groups: tuple[Counts, ...] = ()

    @classmethod
    def of_groups(cls, groups: Sequence[Counts]) -> Counts:
        """The counts of groups of tables together."""
        return cls(*(sum(column) for column in zip(*(group._own() for group in groups), strict=True)), tuple(groups))

    def to_list(self) -> list[float]:
        """All numbers, those of the groups behind the others."""
        return [*self._own(), *(number for group in self.groups for number in group._own())]

    @classmethod
    def of_list(cls, numbers: Sequence[float]) -> Counts:
        """The counts of `to_list`, which may be means over steps."""
        size = len(fields(cls)) - 1
        own, *groups = (numbers[first : first + size] for first in range(0, len(numbers), size))
        return cls(*own, groups=tuple(cls(*group) for group in groups))

    def _own(self) -> list[float]:
        return [getattr(self, f.name) for f in fields(self) if f.name != "groups"]


def mean_width(symbol: str, rows: int, floats: int) -> dict[str, float]:
    """The symbol of the mean floats of `rows` rows with `floats` floats; nothing where all tables have one width."""
    return {symbol: floats / rows} if floats else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The result of one training step on one worker.

    loss       this worker's summand of the mean loss over the batch; the whole loss if the tail is replicated
    row_ids    int64 [rows], ids of the rows that this worker updates, or whose gradients it pushes to servers
    row_grads  [rows, width], their gradients by column
    out        what the tail returned before the update: logits [b] of own samples, [B] if it is replicated, or the
               objective's other output
    targets    the labels [b] or [B], or the objective's other targets
    """

    loss: Tensor
    counts: Counts
    row_ids: Tensor
    row_grads: Mapping[str, Tensor]
    out: Tensor
    targets: Tensor


class Strategy(Protocol):
    """One way to run a training step on N workers.

    value_bytes      bytes of an uncompressed value on the wire, the symbol s
    loss_is_share    whether a step's loss is this worker's summand only
    rows_replicated  whether every worker holds every row, not only those it owns
    placed_by_field  whether the owner of a row follows from its field, not from its id
    shares_rows      whether every worker keeps a copy of some rows in addition to their owner
    looks_ahead      whether `share` needs the whole batch to choose this worker's samples
    replica          the number of the replica of the tables that this worker is in; 0 where there is one only
    """

    network: Network
    comm: Comm
    plan: Plan
    marks: Marks
    table: RowTable | TablesByWidth  # the rows this worker owns
    value_bytes: int
    loss_is_share: bool
    rows_replicated: bool
    placed_by_field: bool
    shares_rows: bool
    looks_ahead: bool
    replica: int

    def attach(self, comm: Comm) -> None:
        """Prepare for batches that `send` sends over `comm`, beside the strategy's own; every worker calls it."""
        ...

    def count(self, first: Callable[[], Iterable[Batch]]) -> None:
        """Choose the hot rows by counting ids in the first global batches, before rows are loaded or trained.

        Every worker calls it with the same batches. They are read only if the strategy has hot rows.
        """
        ...

    def share(self, whole: Batch) -> Batch:
        """This worker's samples of a global batch."""
        ...

    def send(self, batch: Batch, lane: Lane | None = None) -> Any:
        """Run the ops of Phase.INPUT, which depend only on the samples: ids to the owners of their rows, labels.

        With a `lane` they use its group and marks, and may run concurrently with a step on another batch. No row and no
        parameter is read or written.
        """
        ...

    def step(self, batch: Batch, sent: Any = None) -> StepResult:
        """Train on this worker's samples of a global batch; every worker has the same number of samples.

        `sent` is the result of `send(batch)`, if that was called in advance.
        """
        ...

    def predict(self, batch: Batch) -> Tensor:
        """Predictions [B] for the global batch, on every worker, from each worker's samples.

        Logits, or each sample's loss if the model has no logit. No row is inserted.
        """
        ...

    def owns(self, ids: Tensor, field: Tensor) -> Tensor:
        """bool [n]: whether this worker owns the row of each id [n] of a field [n], or columns of it."""
        ...

    def insert(self, ids: Tensor, field: Tensor) -> Tensor:
        """Row numbers in `table` of distinct ids [n] of a field [n], as a step on them would find or add them."""
        ...

    def is_everywhere(self, ids: Tensor, field: Tensor) -> Tensor:
        """bool [n]: whether every worker keeps a copy of the row of each id [n] of a field [n]."""
        ...

    def settle(self) -> None:
        """Bring the replicated parameters and their gradients up to date, between steps; every worker calls it."""
        ...

    def dense_state(self) -> DenseState:
        """All replicated parameters and their optimizer state, by name, between steps; every worker calls it."""
        ...

    def load_dense(self, state: DenseState, step: int) -> None:
        """Continue from such a state, saved after `step` steps; before any training."""
        ...

    def close(self) -> StalenessStats | None:
        """Release the servers after the last step; returns the staleness of pulls if the strategy is asynchronous."""
        ...

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        """For each op whose size depends on the data, the symbols with which its formula is exact for this worker."""
        ...
