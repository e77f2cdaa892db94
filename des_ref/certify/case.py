"""One case of the certificate, on workers that are already there: n of them train, one process trains, both agree.

Synthetic multi-hot Zipf data goes through the real distributed path. Every rank's table holds *all* ids beforehand; the
rows that it does not own are NaN, so that touching one would show. Rank 0 also has the plain reference (reference.py)
and compares, after each step, loss, gradients and parameters. A recorder watches every step: each collective of the
plan must run once, be of the plan's kind and move exactly the bytes of its formula, and no other may run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from des_ref.certify.audit import Audit
from des_ref.codecs.install import use_codecs
from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.data.synthetic import Zipf
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.pipeline import Pipeline
from des_ref.reference import Reference
from des_ref.strategies import build
from des_ref.strategies.base import Lane, Optimizers, StepResult, Strategy
from des_ref.tracing.planned import PlannedRecorder, with_sizes
from dessim.trace.schema import PREFETCH
from dessim.workload.codecs import CodecConfig, parse_codecs
from dessim.workload.model import Model, load_model, parse_model
from dessim.workload.options import parse_strategy

IDS_PER_FIELD = 1.7  # multi-hot: several ids a field, so that pairs split over ranks
SEED = 11
_VOCABULARY = 3000
_FULL_STEPS = 2  # of a small case, steps in which collectives that do not go through comm.py would be seen too
_DENSE = DenseOptimizer("Adam", {"lr": 1e-3, "weight_decay": 1e-5})
# Of a small model: five fields do not divide by any number of ranks that is likely, widths tell layers apart.
_FIELDS, _SMALL_VOCABULARY, _WIDTH, _WIDTHS, _RANK, _LATENT = 5, 200.0, 4, (6, 5, 4), 2, 3


@dataclass(frozen=True, slots=True)
class Case:
    """One certificate: what to run. `sabotage` is called in each rank before training; tests break things with it.

    `placement`: of DES's rows; None: the model file's. `small`: the model's operators at sizes that take milliseconds.
    `codecs`: what values travel as (dessim.workload.codecs); empty: as they are.
    """

    ranks: int
    steps: int
    model: str
    strategy: str
    device: str = "auto"
    pipeline: bool = True
    optimizer: str = "rowwise_adagrad"
    staleness: int = 4
    placement: str | None = None
    small: bool = False
    codecs: str = ""
    sabotage: Callable[[], None] | None = None

    @property
    def label(self) -> str:
        """The case in words."""
        placed = f" by {self.placement}" if self.placement else ""
        ranks = f"{self.ranks} rank{'s' * (self.ranks > 1)}"
        codecs = f", {self.codecs}" if self.codecs else ""
        return f"{self.strategy}, {self.model}{placed}, {self.optimizer}, {ranks}{codecs}"

    @property
    def codes(self) -> CodecConfig:
        """Raises UsageError."""
        return parse_codecs(self.codecs) if self.codecs else CodecConfig()

    def load(self) -> Model:
        """The model to train. Raises ModelError."""
        model = load_model(self.model).placed(self.placement).trained_by(self.optimizer)
        return shrunk(model) if self.small else model

    def optimizers(self) -> Optimizers:
        _, options = parse_strategy(self.strategy)
        dense = DenseOptimizer(SHAMPOO, {"lr": 1e-3}) if options.shampoo else _DENSE
        return Optimizers(ROW_OPTIMIZERS[self.optimizer](), dense, init_std=0.1)


def shrunk(model: Model) -> Model:
    """The same operators, pooling and placement over few fields and narrow layers; with a head, whose sizes are its
    module's, the model as it is."""
    if "head" in model.kinds:
        return model
    raw = model.model_dump()
    fields = min(model.input.fields, _FIELDS)
    raw["input"] |= {
        "fields": fields,
        "ids_per_sample": model.input.ids_per_sample * fields / model.input.fields,
        "vocabulary": min(model.input.vocabulary, _SMALL_VOCABULARY),
    }
    raw["embedding"]["width"] = min(model.embedding.width, _WIDTH)
    for operator in raw["operators"]:
        if "widths" in operator:
            operator["widths"] = [min(w, _WIDTHS[min(i, 2)]) for i, w in enumerate(operator["widths"])]
        for name, most in (("rank", _RANK), ("latent", _LATENT)):
            if operator.get(name):
                operator[name] = min(operator[name], most)
        if operator.get("alpha"):
            operator["alpha"] = operator["alpha"][:fields]
    return parse_model(raw, model.name)


def batches(case: Case, model: Model, comm: Comm) -> list[Batch]:
    """Global batches, one a step."""
    batch = -(-(8 if case.small else 128) // comm.world_size) * comm.world_size
    data = Zipf(model.input.fields, IDS_PER_FIELD, min(model.input.vocabulary, _VOCABULARY), 1.05, SEED)
    return [data.examples(batch, part).take(torch.arange(batch)) for part in range(case.steps)]


@dataclass(frozen=True, slots=True)
class State:
    """After a step: its loss, and gradients and parameters by name (`w`, `v` over the vocabulary, `dense.0` ...)."""

    loss: float
    grads: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]


def expected(case: Case, model: Model, wholes: list[Batch]) -> Iterator[State]:
    """What one process has after each step."""
    # The vocabulary is sorted, so the reference can look ids up by bisection.
    vocabulary = torch.unique(torch.cat([b.ids for b in wholes]))
    plain = Reference(Network(model, SEED, torch.float64, "cpu"), case.optimizers(), vocabulary)
    for whole in wholes:
        step = plain.step(whole)
        yield State(step.loss, step.grads, {name: p.clone() for name, p in plain.parameters.items()})


def compare(
    case: Case, model: Model, comm: Comm, prefetch: Comm, wholes: list[Batch], truth: Iterable[State]
) -> dict[str, Any]:
    """Train on `wholes`, ids sent ahead over `prefetch`; the case's part of the JSON object on rank 0, which alone
    reads `truth`: what `expected` gives."""
    batch, device = len(wholes[0]), comm.device
    vocabulary, place = torch.unique(torch.cat([b.ids for b in wholes]).to(device), return_inverse=True)
    fields = torch.empty_like(vocabulary)
    fields[place] = torch.cat([b.field for b in wholes]).to(device)

    network = Network(model, SEED, torch.float64, device)
    strategy = build(case.strategy, network, case.optimizers(), comm)
    strategy.count(lambda: wholes[:1])
    use_codecs(case.codes, strategy, comm, SEED, measures=True)
    rows = strategy.table.find_or_insert(vocabulary)
    mine = strategy.owner(vocabulary, fields) == comm.rank
    foreign = rows[~(mine | strategy.is_everywhere(vocabulary))]
    for values in strategy.table.columns.values():
        values[foreign] = float("nan")
    recorder = PlannedRecorder(comm, strategy.plan)
    strategy.marks = recorder
    # The last step sends a batch that it does not train on.
    shares = ((0, strategy.share(whole)) for whole in (*wholes, wholes[0]))
    ahead = recorder.beside(prefetch, PREFETCH) if case.pipeline else None
    lane = Lane(prefetch, ahead) if ahead is not None else None
    pipeline = Pipeline(strategy, comm, shares, lane, ahead.step if ahead is not None else nullcontext)
    symbols = strategy.plan.symbols(model.symbols(comm.world_size, batch)) | {"s": float(strategy.value_bytes)}

    worst = {"max_loss_diff": 0.0, "max_grad_diff": 0.0, "max_param_diff": 0.0}
    formulas = {op.name: op.size for op in (*strategy.plan.collectives, *strategy.plan.copies)}
    audit, truth = Audit(strategy.plan, symbols), iter(truth)
    for i in range(len(wholes)):
        # Lightly, a step is watched through comm.py alone, in half the time: of small cases there are thousands.
        full = i < _FULL_STEPS or not case.small
        sent = ahead.take_planned({}) if ahead is not None else []
        result = pipeline.step(
            partial(recorder.step, full=full), partial(ahead.step, full=full) if ahead is not None else nullcontext
        )
        sizes = strategy.op_vars(result.counts, batch)
        audit.add_step([*with_sizes(sent, sizes), *recorder.take_planned(sizes)])
        ours = _state(network, strategy, result, vocabulary, mine, comm)
        if comm.rank == 0:
            theirs = next(truth)
            for key, difference in (
                ("max_loss_diff", abs(ours.loss - theirs.loss)),
                ("max_grad_diff", distance(ours.grads, theirs.grads)),
                ("max_param_diff", distance(ours.parameters, theirs.parameters)),
            ):
                worst[key] = _worse(worst[key], difference)
    pipeline.close()
    ops = [op for op in audit.gather(comm) if op["name"] in formulas or op["mismatches"]]
    lost = comm.coding.lost(comm) if comm.coding is not None else {}
    comm.coding = None
    return {
        "ranks": comm.world_size,
        "equivalent": not lost,
        **({"codecs": str(case.codes), "lost": lost} if lost else {}),
        **worst,
        "bytes_match": all(not op["mismatches"] for op in ops),
        "ops": [{**op, "formula": formulas.get(op["name"], "0")} for op in ops],
    }


def _state(
    network: Network, strategy: Strategy, result: StepResult, vocabulary: Tensor, mine: Tensor, comm: Comm
) -> State:
    """What all ranks have together: rows over the whole vocabulary, and what is replicated."""
    loss = result.loss.reshape(1).clone()
    if strategy.loss_is_share:
        comm.all_reduce("certificate", loss).wait()
    strategy.settle()
    owned, replicated = {}, {}
    common = strategy.is_everywhere(vocabulary) & (not strategy.rows_replicated)
    index = torch.searchsorted(vocabulary, result.row_ids)
    for name, width in network.row_widths.items():
        grad = torch.zeros(len(vocabulary), width, dtype=network.dtype, device=comm.device)
        grad[index] = result.row_grads[name]
        values = strategy.table.columns[name]
        if strategy.rows_replicated:
            replicated["grad", name], replicated["value", name] = grad, values
        else:
            # Owned rows only; adding zeros of the others is exact. What others keep too, they keep to the last bit.
            values = torch.where(mine[:, None], values, 0.0)
            owned["grad", name], owned["value", name] = grad.masked_fill((common & ~mine)[:, None], 0.0), values
            if common.any():
                copies = strategy.table.columns[name][common]
                values[common] += 0.0 * _agreed(copies.reshape(-1), comm).view(copies.shape)
    for i, p in enumerate(network.dense_parameters):
        replicated["grad", f"dense.{i}"], replicated["value", f"dense.{i}"] = p.grad, p.detach()
    whole = _flat(owned, loss)
    comm.all_reduce("certificate", whole).wait()
    found = _unflat(whole.cpu(), owned) | _unflat(_agreed(_flat(replicated, loss), comm).cpu(), replicated)
    grads, parameters = ({name: t for (kind, name), t in found.items() if kind == which} for which in ("grad", "value"))
    return State(float(loss), grads, parameters)


def _agreed(replica: Tensor, comm: Comm) -> Tensor:
    """The vector that all ranks hold, NaN where they are not the same to the last bit."""
    all_ranks = replica.new_empty(comm.world_size, len(replica))
    comm.all_gather("certificate", all_ranks, replica[None]).wait()
    same = (all_ranks == all_ranks[0]).all(dim=0)
    return torch.where(same, all_ranks[0], float("nan"))


def _flat(tensors: Mapping[Any, Tensor], like: Tensor) -> Tensor:
    """One vector of `like`'s type and device, so that one collective does for all."""
    return torch.cat([like.new_empty(0), *(t.reshape(-1) for t in tensors.values())])


def _unflat(flat: Tensor, like: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    parts = flat.split([t.numel() for t in like.values()])
    return {key: part.view_as(t) for (key, t), part in zip(like.items(), parts, strict=True)}


def distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest difference of two sets of tensors; the largest float where there is a NaN."""
    # `_worse`, not `max`, which loses a NaN that does not come first.
    return reduce(_worse, (float((ours[name] - theirs[name]).abs().max()) for name in theirs), 0.0)


def _worse(a: float, b: float) -> float:
    """The larger; NaN, a poisoned row that was used or replicas that came apart, becomes the largest float."""
    return max(a, b) if b == b else sys.float_info.max
