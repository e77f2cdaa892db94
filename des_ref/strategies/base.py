"""What every strategy offers, and how it tells a recorder where it is in the step."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from des_ref.data.batch import Batch
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.optim import RowAdagrad
from dessim.trace.schema import Phase
from dessim.workload.plan import Plan


class Marks(Protocol):
    """Where compute segments begin and end; `name` is the op's name in the plan."""

    def segment(self, name: str, phase: Phase) -> AbstractContextManager[None]: ...


class NoMarks:
    """Nobody records."""

    def segment(self, name: str, phase: Phase) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True, slots=True)
class Optimizers:
    """Row-wise Adagrad for rows, Adam for replicated weights; `init_std` is the deviation of a new row's values."""

    rows: RowAdagrad
    dense_rate: float
    dense_weight_decay: float = 0.0
    init_std: float = 0.01

    def dense(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.dense_rate, weight_decay=self.dense_weight_decay)


@dataclass(frozen=True, slots=True)
class Counts:
    """The sizes of this worker's step that depend on the data.

    ids_sent: ids in its own samples. ids_held: occurrences, over the global batch, of ids it owns. rows: how many
    different ones. pairs: in how many (sample, field) pairs (0 where no operator pools).
    """

    ids_sent: int
    ids_held: int
    rows: int
    pairs: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """loss: this worker's summand of the mean loss over the batch (the whole, where the tail is replicated)."""

    loss: Tensor
    counts: Counts
    row_ids: Tensor  # int64 [rows]
    row_grads: Mapping[str, Tensor] = field(default_factory=dict)  # [rows, width] a column


class Strategy(Protocol):
    """One way to run a training step on N workers."""

    plan: Plan
    marks: Marks
    table: RowTable  # the rows this worker owns
    value_bytes: int  # of a value on the wire: the symbol s
    loss_is_share: bool  # whether a step's loss is this worker's summand only

    def step(self, batch: Batch) -> StepResult:
        """Train on this worker's samples of a global batch; every worker's share has equally many."""
        ...

    def predict(self, batch: Batch) -> Tensor:
        """Logits [B] of the global batch, on every worker, from this worker's samples; nothing is inserted."""
        ...

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        """For each op of the plan whose size depends on the data, the symbols that make its formula exact here."""
        ...
