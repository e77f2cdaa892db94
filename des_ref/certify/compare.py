"""Runs a case on the ranks of a group and compares every step with one process.

Training goes through the real distributed path. Every rank's table holds *all* ids from the start, and the rows that
the rank does not own are NaN, so that reading one shows. Rank 0 also has the states of the plain reference
(reference.py) and compares loss, gradients and parameters after each step. A recorder watches every step: each
collective of the plan must run once, be of the planned kind and move exactly the bytes of its formula, and no other
collective may run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from des_ref.certify.audit import Audit
from des_ref.certify.case import SEED, Case
from des_ref.comm import CodedComm, Comm, Encoding
from des_ref.data.batch import Batch
from des_ref.models.build import Network
from des_ref.pipeline import Pipeline
from des_ref.reference import Reference
from des_ref.strategies.base import Lane, StepResult, Strategy
from des_ref.tracing.planned import PlannedRecorder, with_sizes
from dessim.trace.schema import PREFETCH, Op
from dessim.workload.model import Model
from dessim.workload.symbol_values import value_bytes

_LARGEST = sys.float_info.max

Key = tuple[str, str]  # ("grad" or "value", name of the parameter)


@dataclass(frozen=True, slots=True)
class State:
    """After a step: its loss, and gradients and parameters by name (`w`, `v` over the vocabulary, `dense.0` ...)."""

    loss: float
    grads: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]


def reference_states(case: Case, model: Model, batches: list[Batch]) -> Iterator[State]:
    """The state of one-process training after each batch."""
    vocabulary, fields = _vocabulary(batches, torch.device("cpu"))
    of_tables = case.owners_columns
    columns = [of_tables[table] for table in fields.tolist()] if of_tables else []
    network = Network(model, SEED, torch.float64, "cpu")
    reference = Reference(network, case.optimizers(), vocabulary, columns)
    for batch in batches:
        step = reference.step(batch)
        yield State(step.loss, step.grads, {name: p.clone() for name, p in reference.parameters.items()})


def _vocabulary(batches: list[Batch], device: torch.device) -> tuple[Tensor, Tensor]:
    """Every id of the batches, int64 [V], and its field, int64 [V]. Ids are sorted: the reference bisects them."""
    vocabulary, index = torch.unique(torch.cat([b.ids for b in batches]).to(device), return_inverse=True)
    fields = torch.empty_like(vocabulary)
    fields[index] = torch.cat([b.field for b in batches]).to(device)
    return vocabulary, fields


def compare(
    case: Case, model: Model, comm: Comm, *, prefetch: Comm, batches: list[Batch], truth: Iterable[State]
) -> dict[str, Any]:
    """Train on `batches` and compare with `truth`, the states of `reference_states`, which only rank 0 reads.

    Every rank calls it. Ids are sent ahead over `prefetch`. Returns the case's part of the JSON object; only rank 0's
    holds the differences.
    """
    run = _Run.prepare(case, model, comm, batches)
    plan = run.strategy.plan
    symbols = plan.symbols(model.symbols(comm.world_size, len(batches[0])))
    audit = Audit(plan, symbols | value_bytes(run.strategy.value_bytes))
    watched = _WatchedPipeline(run, prefetch if case.pipeline else None, batches)
    states = iter(truth)
    worst = {"max_loss_diff": 0.0, "max_grad_diff": 0.0, "max_param_diff": 0.0}
    for _ in batches:
        result, ops = watched.step()
        audit.add_step(ops)
        state = run.state(result)
        if comm.rank == 0:
            worst_differences(worst, state, next(states))
    watched.close()
    formulas = {op.name: str(op.size) for op in (*plan.collectives, *plan.copies)}
    audited = [op for op in audit.gather(comm) if op["name"] in formulas or op["mismatches"]]
    encoded = run.strategy.comm
    lost = encoded.encoding_loss() if isinstance(encoded, CodedComm) else {}
    return {
        "ranks": comm.world_size,
        "equivalent": not lost and not case.splits_means,
        **({"split_means": True} if case.splits_means else {}),
        **({"codecs": str(case.codec_config), "lost": lost} if lost else {}),
        **worst,
        "bytes_match": all(not op["mismatches"] for op in audited),
        "ops": [{**op, "formula": formulas.get(op["name"], "0")} for op in audited],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """The distributed side of a case on this rank.

    `is_mine` marks the rows of the vocabulary that the rank owns, `is_copy` those that it owns in a further replica of
    the tables, and `is_common` those that every rank keeps.
    """

    comm: Comm
    network: Network
    strategy: Strategy
    vocabulary: Tensor  # int64 [V], every id of the case, sorted
    rows: Tensor  # int64 [V], their row numbers
    is_mine: Tensor  # bool [V]
    is_copy: Tensor  # bool [V]
    is_common: Tensor  # bool [V]
    replicas: int

    @classmethod
    def prepare(cls, case: Case, model: Model, comm: Comm, batches: list[Batch]) -> _Run:
        """Build the strategy, insert every id into its table, and overwrite the rows of other ranks with NaN."""
        vocabulary, fields = _vocabulary(batches, comm.device)
        network = Network(model, SEED, torch.float64, comm.device)
        encoding = Encoding(case.codec_config, SEED, measure_loss=True)
        strategy = case.build(network, comm, encoding)
        strategy.count(lambda: batches[:1])
        rows = strategy.insert(vocabulary, fields)
        owned = strategy.owns(vocabulary, fields)
        none = torch.zeros_like(owned)
        mine, copies = (owned, none) if strategy.replica == 0 else (none, owned)
        is_common = strategy.is_everywhere(vocabulary, fields)
        strategy.table.poison(rows[~(owned | is_common)])
        return cls(
            comm=comm,
            network=network,
            strategy=strategy,
            vocabulary=vocabulary,
            rows=rows,
            is_mine=mine,
            is_copy=copies,
            is_common=is_common,
            replicas=case.replicas,
        )

    def state(self, result: StepResult) -> State:
        """The state that all ranks hold together after a step. Every rank calls it."""
        loss = result.loss.reshape(1).clone()
        if self.strategy.loss_is_share:
            self.comm.all_reduce("certificate", loss).wait()
        stored = self.strategy.table.stored
        unsettled = [column.clone() for column in stored]
        self.strategy.settle()
        owned: dict[Key, Tensor] = {}
        replicated: dict[Key, Tensor] = {}
        for name, grad in row_grads(self.network, self.vocabulary, result).items():
            if self.strategy.rows_replicated:
                replicated["grad", name] = grad
                replicated["value", name] = self._values(name)
            else:
                owned["grad", name], owned["value", name] = self._own_rows(name, grad)
        for i, p in enumerate(self.network.dense_parameters):
            replicated["grad", f"dense.{i}"] = p.grad
            replicated["value", f"dense.{i}"] = p.detach()
        summed = _flat(owned, loss)
        self.comm.all_reduce("certificate", summed).wait()
        agreed = self._agreed(_flat(replicated, loss))
        # Undo `settle`: the comparison must not hide a write-back that the step omitted.
        for column, values in zip(stored, unsettled, strict=True):
            column.copy_(values)
        tensors = _unflat(summed.cpu(), owned) | _unflat(agreed.cpu(), replicated)
        grads = {name: t for (kind, name), t in tensors.items() if kind == "grad"}
        parameters = {name: t for (kind, name), t in tensors.items() if kind == "value"}
        return State(float(loss), grads, parameters)

    def _values(self, name: str) -> Tensor:
        """[V, width]: a column of this rank's table."""
        return self.strategy.table.values(self.vocabulary, self.rows, (name,))[name]

    def _own_rows(self, name: str, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients and values [V, width] of the rows this rank owns, zeros elsewhere, so that a sum over ranks is
        exact. Copies that several ranks keep must be bit-identical; where they differ, the values are NaN."""
        is_mine = self.is_mine
        is_common = self.is_common
        copies = self._values(name)
        values = torch.where(is_mine[:, None], copies, 0.0)
        if is_common.any():
            common = copies[is_common]
            values[is_common] += 0.0 * self._agreed(common.reshape(-1)).view(common.shape)
        if self.replicas > 1:
            values.masked_fill_(self._differs_between_replicas(copies), float("nan"))
        return grad.masked_fill(((is_common & ~is_mine) | self.is_copy)[:, None], 0.0), values

    def _differs_between_replicas(self, own: Tensor) -> Tensor:
        """bool [V, width]: which of the values `own` of the rows that this rank has differ in some replica."""
        replicas = own.new_zeros(self.replicas, *own.shape)
        replicas[self.strategy.replica] = torch.where((self.is_mine | self.is_copy)[:, None], own, 0.0)
        self.comm.all_reduce("certificate", replicas).wait()
        return (replicas != replicas[0]).any(dim=0)

    def _agreed(self, replica: Tensor) -> Tensor:
        """The vector that all ranks hold; NaN where their copies are not bit-identical."""
        all_ranks = replica.new_empty(self.comm.world_size, len(replica))
        self.comm.all_gather("certificate", all_ranks, replica[None]).wait()
        is_same = (all_ranks == all_ranks[0]).all(dim=0)
        return torch.where(is_same, all_ranks[0], float("nan"))


def row_grads(network: Network, vocabulary: Tensor, result: StepResult) -> dict[str, Tensor]:
    """By column, the gradients [V, width] of the rows that a step trained, zeros for the others of the vocabulary.

    All are NaN where it trained a row that no sample has. `vocabulary` int64 [V] is sorted.
    """
    index = torch.searchsorted(vocabulary, result.row_ids).clamp_max(len(vocabulary) - 1)
    is_unknown = (vocabulary[index] != result.row_ids).any()
    grads = {}
    for name, width in network.row_widths.items():
        grad = torch.zeros(len(vocabulary), width, dtype=network.dtype, device=network.device)
        grad[index] = result.row_grads[name]
        grads[name] = grad.masked_fill_(is_unknown, float("nan"))
    return grads


class _WatchedPipeline:
    """The pipeline of a run whose steps are recorded. `prefetch` is None where no ids are sent ahead."""

    def __init__(self, run: _Run, prefetch: Comm | None, batches: list[Batch]) -> None:
        self._strategy = run.strategy
        self._samples = len(batches[0])
        self._recorder = PlannedRecorder(run.comm, run.strategy.plan)
        self._strategy.marks = self._recorder
        # The last step sends a batch that it does not train on.
        shares = ((0, run.strategy.share(batch)) for batch in (*batches, batches[0]))
        self._ahead = self._recorder.for_stream(prefetch, PREFETCH) if prefetch is not None else None
        lane = Lane(prefetch, self._ahead) if prefetch is not None and self._ahead is not None else None
        watch_first = partial(self._ahead.step, costs=False) if self._ahead is not None else nullcontext
        self._pipeline = Pipeline(run.strategy, run.comm, shares, lane, watch_first)

    def step(self) -> tuple[StepResult, list[Op]]:
        """Train one step. Returns its result and its ops, those of its batch that were sent ahead included."""
        recorder = self._recorder
        ahead = self._ahead
        sent = ahead.take_planned({}) if ahead is not None else []
        watch_ahead = partial(ahead.step, costs=False) if ahead is not None else nullcontext
        result = self._pipeline.step(partial(recorder.step, costs=False), watch_ahead)
        variables = self._strategy.op_vars(result.counts, self._samples)
        return result, [*with_sizes(sent, variables), *recorder.take_planned(variables)]

    def close(self) -> None:
        self._pipeline.close()


def _flat(tensors: Mapping[Key, Tensor], like: Tensor) -> Tensor:
    """All tensors as one vector of `like`'s type and device, so that one collective serves for all."""
    return torch.cat([like.new_empty(0), *(t.reshape(-1) for t in tensors.values())])


def _unflat(flat: Tensor, like: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """The reverse of `_flat`, for tensors shaped as those of `like`."""
    parts = flat.split([t.numel() for t in like.values()])
    return {key: part.view_as(t) for (key, t), part in zip(like.items(), parts, strict=True)}


def worst_differences(worst: dict[str, float], state: State, truth: State) -> None:
    """Keep in `worst` the larger of each difference: the one so far, and that between two states."""
    differences = {
        "max_loss_diff": abs(state.loss - truth.loss),
        "max_grad_diff": distance(state.grads, truth.grads),
        "max_param_diff": distance(state.parameters, truth.parameters),
    }
    for key, difference in differences.items():
        worst[key] = _worse(worst[key], difference)


def distance(tensors: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """The largest absolute difference of two sets of tensors; the largest float where there is a NaN."""
    # `max` would lose a NaN that is not its first argument.
    return reduce(_worse, (float((tensors[name] - truth[name]).abs().max()) for name in truth), 0.0)


def _worse(a: float, b: float) -> float:
    """The larger of two. A NaN, from a poisoned row or from replicas that differ, becomes the largest float."""
    return max(a, b) if b == b else _LARGEST
