"""What every strategy offers, and how it tells a recorder where it is in the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from des_ref.comm import CodedComm, Comm
from des_ref.data.batch import Batch, slice_of
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.optim import RowAdagrad, RowOptimizer
from des_ref.hashing import owner_of
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.models.shampoo import Shampoo
from des_ref.strategies.dense_state import DenseState, export_network, load_network
from des_ref.strategies.grads import SummedGrads
from des_ref.strategies.staleness import Tally
from dessim.trace.schema import Phase
from dessim.workload.coded_plan import coded
from dessim.workload.options import Options
from dessim.workload.plan import Plan
from dessim.workload.strategies import plan

FIELD = "field"  # column of tables whose rows are owned by field: whose they are on other workers follows from it


class Marks(Protocol):
    """Where compute segments begin and end; `name` is the op's name in the plan."""

    def segment(self, name: str, phase: Phase) -> AbstractContextManager[None]: ...

    def copy(self, name: str, phase: Phase, moved: int) -> AbstractContextManager[None]:
        """`moved` bytes between a device and its host's memory."""
        ...


class NoMarks:
    """Nobody records."""

    def segment(self, name: str, phase: Phase) -> AbstractContextManager[None]:
        return nullcontext()

    def copy(self, name: str, phase: Phase, moved: int) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(slots=True)
class Lane:
    """Who does a piece of a step, and who watches: the step itself, or the thread that works ahead of it."""

    comm: Comm
    marks: Marks = field(default_factory=NoMarks)


@dataclass(frozen=True, slots=True)
class Optimizers:
    """Of rows, and of replicated weights; `init_std` is the deviation of a new row's values, `lifetime` its time."""

    rows: RowOptimizer = field(default_factory=RowAdagrad)
    dense: DenseOptimizer = field(default_factory=DenseOptimizer)
    init_std: float = 0.01
    lifetime: Lifetime = field(default_factory=Lifetime)


@dataclass(frozen=True, slots=True)
class Counts:
    """The sizes of this worker's step that depend on the data.

    ids_sent: ids in its own samples. ids_held: occurrences, over the global batch, of ids it owns. rows: how many
    different ones it updates. pairs: in how many (sample, field) pairs they occur (0 where no operator pools).
    keys: different ids that it asks others for, `local` of them its own. asked: keys that others ask of it. hot:
    different ids that it need not ask for. common: of `rows`, those that every worker updates. came, went: rows that
    entered and left its cache. All 0 where a strategy has no such.
    """

    ids_sent: int
    ids_held: int = 0
    rows: int = 0
    pairs: int = 0
    keys: int = 0
    asked: int = 0
    local: int = 0
    hot: int = 0
    common: int = 0
    came: int = 0
    went: int = 0


@dataclass(frozen=True, slots=True)
class StepResult:
    """loss: this worker's summand of the mean loss over the batch (the whole, where the tail is replicated).

    out, targets: what the tail gave of b samples, or of all B where it is replicated, before anything was updated, and
    what it was held against: logits and labels [b] or [B], or what the objective has instead.
    """

    loss: Tensor
    counts: Counts
    row_ids: Tensor  # int64 [rows]
    row_grads: Mapping[str, Tensor]  # [rows, width] a column
    out: Tensor
    targets: Tensor


class Strategy(Protocol):
    """One way to run a training step on N workers."""

    network: Network
    comm: Comm
    plan: Plan
    marks: Marks
    table: RowTable  # the rows this worker owns
    value_bytes: int  # of a value on the wire: the symbol s
    loss_is_share: bool  # whether a step's loss is this worker's summand only
    rows_replicated: bool  # whether every worker holds every row, and not only those it owns
    goes_by_field: bool  # whether a row's owner follows from its field, and not from its id
    shares_rows: bool  # whether there are rows that every worker keeps beside their owner
    looks_ahead: bool  # whether `share` must see the whole batch to know which samples are this worker's

    def count(self, first: Callable[[], Iterable[Batch]]) -> None:
        """See which ids are frequent, in the first global batches; before rows are loaded and before any training.

        Every worker calls it with the same batches; they are read only where a strategy treats frequent rows apart.
        """
        ...

    def share(self, whole: Batch) -> Batch:
        """This worker's samples of a global batch."""
        ...

    def send(self, batch: Batch, lane: Lane | None = None) -> Any:
        """The ops that need nothing but the samples, those of Phase.INPUT: ids to the owners of their rows, labels.

        With a `lane` they are its, and may run beside a step of another batch; no row and no parameter is touched.
        """
        ...

    def step(self, batch: Batch, sent: Any = None) -> StepResult:
        """Train on this worker's samples of a global batch; every worker's share has equally many.

        `sent` is what `send(batch)` returned, where that was called before.
        """
        ...

    def predict(self, batch: Batch) -> Tensor:
        """Of the global batch [B], on every worker, from this worker's samples: logits, or each sample's loss where the
        model has none. Nothing is inserted."""
        ...

    def owner(self, ids: Tensor, field: Tensor) -> Tensor:
        """The worker that owns the row of each id [n] of a field [n], int64."""
        ...

    def is_everywhere(self, ids: Tensor) -> Tensor:
        """Whether the row of each id [n] is kept by every worker beside its owner, bool."""
        ...

    def settle(self) -> None:
        """Bring replicated parameters and their gradients up to date here, outside of a step; every worker calls it."""
        ...

    def dense_state(self) -> DenseState:
        """Replicated parameters and their optimizer's state, whole, by name; every worker calls it, between steps."""
        ...

    def load_dense(self, state: DenseState, step: int) -> None:
        """Go on from such a state, after so many steps; before any training."""
        ...

    def close(self) -> Tally | None:
        """Let go of whoever serves this worker, after the last step; how stale what it read was, where it can be."""
        ...

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        """For each op of the plan whose size depends on the data, the symbols that make its formula exact here."""
        ...


class OwnedByHash:
    """What most strategies answer: rows live where h(id) says, and replicas are up to date after each step."""

    name: str
    rows_replicated = False
    goes_by_field = False
    shares_rows = False
    looks_ahead = False
    _dense: torch.optim.Optimizer

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm, options: Options | None = None) -> None:
        options = replace(options or Options(), shampoo=optimizers.dense.name == SHAMPOO)
        self.network, self.comm, self.options = network, comm, options
        self.plan = plan(self.name + str(self.options), network.model)
        if isinstance(comm, CodedComm):
            self.plan = coded(self.plan, network.model, comm.codecs)
        self.marks: Marks = NoMarks()
        self.value_bytes = network.dtype.itemsize
        more = {FIELD: 1} if self.goes_by_field else {}
        self.table = self._new_table(optimizers, more)
        self._rows = optimizers.rows
        self._step = 0

    def _new_table(self, optimizers: Optimizers, more: Mapping[str, int]) -> RowTable:
        return self.network.new_table(optimizers.rows, optimizers.init_std, more, optimizers.lifetime)

    def owner(self, ids: Tensor, field: Tensor) -> Tensor:
        return owner_of(ids, self.comm.world_size)

    def count(self, first: Callable[[], Iterable[Batch]]) -> None:
        return None

    def share(self, whole: Batch) -> Batch:
        return slice_of(whole, self.comm.rank, self.comm.world_size)

    def is_everywhere(self, ids: Tensor) -> Tensor:
        return torch.full_like(ids, self.rows_replicated, dtype=torch.bool)

    def settle(self) -> None:
        return None

    def update_rows(self, rows: Tensor, grads: Mapping[str, Tensor]) -> None:
        """The optimizer's step of rows [u] that this step has, those of -1 left out; the table's step ends with it."""
        self._rows.update(self.table, *self.table.admitted(rows, grads))
        self.table.end_step()

    def note_fields(self, rows: Tensor, inverse: Tensor, field: Tensor) -> None:
        """Write into rows [u] the field of each of their occurrences [n], of which `inverse` says whose it is."""
        if self.goes_by_field:
            of_row = field.new_zeros(len(rows)).scatter_(0, inverse, field)[:, None].to(self.network.dtype)
            rows, noted = self.table.admitted(rows, {FIELD: of_row})
            self.table.columns[FIELD].index_copy_(0, rows, noted[FIELD])

    def train_dense(self, optimizer: torch.optim.Optimizer) -> None:
        """Replicated weights are to be trained by this one."""
        self._dense = optimizer
        if isinstance(optimizer, Shampoo):
            # What the plan takes to be dealt out evenly is known here.
            most, others = float(optimizer.most(self.comm.world_size)), self.plan.own_symbols
            assert others is not None
            self.plan = replace(self.plan, own_symbols=lambda job: {**others(job), "Y": most})

    def step_dense(self, *summed: SummedGrads) -> None:
        """Wait for the gradients of replicated weights, and step."""
        for gradients in summed:
            gradients.wait()
        if not isinstance(self._dense, Shampoo):
            with self.marks.segment("update_dense", Phase.OPTIMIZER):
                for gradients in summed:
                    gradients.unpack()
                self._dense.step()
            return
        n = self.comm.world_size
        with self.marks.segment("precondition", Phase.OPTIMIZER):
            for gradients in summed:
                gradients.unpack()
            mine = self._dense.directions(self.comm.rank, n)
        whole = mine.new_empty(n * len(mine))
        self.comm.all_gather("directions", whole, mine).wait()
        with self.marks.segment("update_dense", Phase.OPTIMIZER):
            self._dense.apply(whole.view(n, -1))

    def dense_state(self) -> DenseState:
        return export_network(self.network, self._dense, self.comm)

    def load_dense(self, state: DenseState, step: int) -> None:
        load_network(self.network, self._dense, state)
        self._step = step

    def close(self) -> Tally | None:
        return None
