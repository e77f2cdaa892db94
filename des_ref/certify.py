"""The equivalence certificate: DES on n ranks trains exactly as one process does.

    python -m des_ref.certify                       2 and 4 ranks, 30 steps, float64
    python -m des_ref.certify --ranks 1,2,4,8 --strategy des_reduce_scatter --json

Each case spawns n processes that train on synthetic multi-hot Zipf data through the real distributed path. Every
rank's table holds *all* ids beforehand; the rows that it does not own are NaN, so that touching one would show. Rank 0
also trains the plain reference (reference.py) and compares, after each step, loss, gradients and parameters. A recorder
watches every step: each collective of the plan must run once, be of the plan's kind and move exactly the bytes of its
formula, and no other may run.

Exit code 3 when a bound breaks: parameters within 1e-12, bytes equal, no NaN.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from des_ref import certify_async
from des_ref.audit import Audit
from des_ref.capture import Recorder, with_sizes
from des_ref.cli import Parser, leave, positive, run, say
from des_ref.comm import Comm, open_comm
from des_ref.data.batch import Batch, slice_of
from des_ref.data.synthetic import Zipf
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.pipeline import Pipeline
from des_ref.reference import Reference
from des_ref.strategies import STRATEGIES, check_strategy
from des_ref.strategies.base import Lane, Optimizers, StepResult, Strategy
from dessim.errors import CheckFailed, SimulationError, UsageError
from dessim.files import dump_json
from dessim.trace.schema import PREFETCH
from dessim.workload.model import Model, load_model

PARAMETER_BOUND = 1e-12  # docs: validation, the trainer
_BATCH = 128
_IDS_PER_FIELD = 1.7  # multi-hot: several ids a field, so that pairs split over ranks
_VOCABULARY = 3000
_SEED = 11
_DENSE = DenseOptimizer("Adam", {"lr": 1e-3, "weight_decay": 1e-5})


@dataclass(frozen=True, slots=True)
class Case:
    """One certificate: what to run. `sabotage` is called in each rank before training; tests break things with it."""

    ranks: int
    steps: int
    model: str
    strategy: str
    device: str = "auto"
    pipeline: bool = True
    optimizer: str = "rowwise_adagrad"
    staleness: int = 4
    placement: str | None = None
    sabotage: Callable[[], None] | None = None


def certify(case: Case) -> dict[str, Any]:
    """Run one case in processes of its own; its part of the JSON object. Raises SimulationError if a rank dies."""
    context = multiprocessing.get_context("spawn")
    processes = case.ranks + (certify_async.SERVERS if case.strategy == "ps_async" else 0)
    with tempfile.TemporaryDirectory() as scratch:
        meeting, answer = Path(scratch) / "meeting", Path(scratch) / "answer.json"
        ranks = [
            context.Process(target=_rank_main, args=(case, (meeting, rank, processes), answer), daemon=True)
            for rank in range(processes)
        ]
        for process in ranks:
            process.start()
        try:
            for process in ranks:
                process.join()
        finally:
            for process in ranks:
                process.kill()
        if not answer.is_file():
            codes = [process.exitcode for process in ranks]
            raise SimulationError(f"a rank of the {case.ranks}-rank certificate died (exit codes {codes}); see above")
        return json.loads(answer.read_text("utf-8"))


def _rank_main(case: Case, rendezvous: tuple[Path, int, int], answer: Path) -> None:
    torch.set_num_threads(1)
    if case.sabotage is not None:
        case.sabotage()
    run_case = _run_async if case.strategy == "ps_async" else _run
    with open_comm(case.device, rendezvous) as comm:
        result = run_case(case, load_model(case.model).placed(case.placement), comm)
        if comm.rank == 0:
            answer.write_text(json.dumps(result), "utf-8")
    leave(0)


def _run_async(case: Case, model: Model, everyone: Comm) -> dict[str, Any] | None:
    comm = everyone.apart(certify_async.SERVERS, certify_async.PATIENCE)
    optimizers = Optimizers(ROW_OPTIMIZERS[case.optimizer](), _DENSE, init_std=0.1)
    return certify_async.measure(comm, model, optimizers, _SEED, _batches(case, model, comm), case.staleness)


def _batches(case: Case, model: Model, comm: Comm) -> list[Batch]:
    """Global batches, one a step."""
    batch = -(-_BATCH // comm.world_size) * comm.world_size
    data = Zipf(model.input.fields, _IDS_PER_FIELD, min(model.input.vocabulary, _VOCABULARY), 1.05, _SEED)
    return [data.examples(batch, part).take(torch.arange(batch)) for part in range(case.steps)]


def _run(case: Case, model: Model, comm: Comm) -> dict[str, Any]:
    wholes = _batches(case, model, comm)
    batch = len(wholes[0])
    vocabulary, place = torch.unique(torch.cat([b.ids for b in wholes]).to(comm.device), return_inverse=True)
    fields = torch.empty_like(vocabulary)
    fields[place] = torch.cat([b.field for b in wholes]).to(comm.device)

    network = Network(model, _SEED, torch.float64, comm.device)
    optimizers = Optimizers(ROW_OPTIMIZERS[case.optimizer](), _DENSE, init_std=0.1)
    strategy = STRATEGIES[case.strategy](network, optimizers, comm)
    rows = strategy.table.find_or_insert(vocabulary)
    mine = strategy.owner(vocabulary, fields) == comm.rank
    if not strategy.rows_replicated:
        for values in strategy.table.columns.values():
            values[rows[~mine]] = float("nan")
    recorder = Recorder(comm, strategy.plan)
    strategy.marks = recorder
    # The last step sends a batch that it does not train on.
    shares = [(0, slice_of(whole, comm.rank, comm.world_size)) for whole in (*wholes, wholes[0])]
    lane = ahead = None
    if case.pipeline:
        other = comm.beside(PREFETCH)
        ahead = recorder.beside(other, PREFETCH)
        lane = Lane(other, ahead)
    watch_ahead = ahead.step if ahead is not None else nullcontext
    pipeline = Pipeline(strategy, comm, iter(shares), lane, watch_ahead)
    # The vocabulary is sorted, so the reference can look ids up by bisection.
    plain = Reference(Network(model, _SEED, torch.float64, "cpu"), optimizers, vocabulary.cpu())
    symbols = model.symbols(comm.world_size, batch) | {"s": float(strategy.value_bytes)}

    worst = {"loss": 0.0, "grad": 0.0, "param": 0.0}
    formulas = {op.name: op.size for op in strategy.plan.collectives}
    audit = Audit(strategy.plan, symbols)
    for whole in wholes:
        sent = ahead.take({}) if ahead is not None else []
        result = pipeline.step(recorder.step, watch_ahead)
        sizes = strategy.op_vars(result.counts, batch)
        audit.add_step([*with_sizes(sent, sizes), *recorder.take(sizes)])
        shared = _share(network, strategy, result, vocabulary, mine, comm)
        if comm.rank == 0:
            expected = plain.step(whole)
            differences = {
                "loss": abs(shared.loss - expected.loss),
                "grad": _distance(shared.grads, expected.grads),
                "param": _distance(shared.parameters, plain.parameters),
            }
            worst = {key: _worse(worst[key], value) for key, value in differences.items()}
    pipeline.close()
    ops = [op for op in audit.gather(comm) if op["name"] in formulas or op["mismatches"]]
    return {
        "ranks": comm.world_size,
        "equivalent": True,
        "max_loss_diff": worst["loss"],
        "max_grad_diff": worst["grad"],
        "max_param_diff": worst["param"],
        "bytes_match": all(not op["mismatches"] for op in ops),
        "ops": [{**op, "formula": formulas.get(op["name"], "0")} for op in ops],
    }


@dataclass(frozen=True, slots=True)
class _Shared:
    loss: float
    grads: dict[str, Tensor]
    parameters: dict[str, Tensor]


def _share(
    network: Network,
    strategy: Strategy,
    result: StepResult,
    vocabulary: Tensor,
    mine: Tensor,
    comm: Comm,
) -> _Shared:
    """Rows and row gradients of all ranks over the whole vocabulary, and the replicated parameters."""
    loss = result.loss.reshape(1).clone()
    if strategy.loss_is_share:
        comm.all_reduce("certificate", loss).wait()
    grads, parameters = {}, {}
    index = torch.searchsorted(vocabulary, result.row_ids)
    for name, width in network.row_widths.items():
        grad = torch.zeros(len(vocabulary), width, dtype=network.dtype, device=comm.device)
        grad[index] = result.row_grads[name]
        values = strategy.table.columns[name]
        if strategy.rows_replicated:
            grad, values = _agreed(grad, comm), _agreed(values, comm)
        else:
            # Owned rows only; adding zeros of the others is exact.
            values = torch.where(mine[:, None], values, torch.zeros_like(grad))
            for tensor in (grad, values):
                comm.all_reduce("certificate", tensor).wait()
        grads[name], parameters[name] = grad.cpu(), values.cpu()
    strategy.settle()
    for i, p in enumerate(network.dense_parameters):
        grads[f"dense.{i}"] = _agreed(p.grad, comm).cpu()
        parameters[f"dense.{i}"] = _agreed(p.detach(), comm).cpu()
    return _Shared(float(loss), grads, parameters)


def _agreed(replica: Tensor, comm: Comm) -> Tensor:
    """The tensor that all ranks hold, or NaN where they are not the same to the last bit."""
    flat = replica.reshape(1, -1)
    all_ranks = flat.new_empty(comm.world_size, flat.shape[1])
    comm.all_gather("certificate", all_ranks, flat.contiguous()).wait()
    same = (all_ranks == all_ranks[0]).all(dim=0)
    return torch.where(same, all_ranks[0], float("nan")).view_as(replica)


def _distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    # `_worse`, not `max`, which loses a NaN that does not come first.
    return reduce(_worse, (float((ours[name] - theirs[name]).abs().max()) for name in theirs), 0.0)


def _worse(a: float, b: float) -> float:
    """The larger; NaN, a poisoned row that was used or replicas that came apart, becomes the largest float."""
    return max(a, b) if b == b else sys.float_info.max


def passed(case: Mapping[str, Any]) -> bool:
    """Whether every bound holds."""
    if "staleness" in case and not case["staleness"]["max"] <= case["staleness"]["bound"]:
        return False
    return case["bytes_match"] and (not case["equivalent"] or case["max_param_diff"] <= PARAMETER_BOUND)


def _staleness(case: Mapping[str, Any]) -> str:
    stale = case["staleness"]
    return (
        f"{'equivalent' if case['equivalent'] else 'not equivalent'}; a pull was {stale['mean']:.2f} steps stale on "
        f"average, {stale['max']} at most (bound {stale['bound']}); {stale['missed_mean']:.2f} pushes of others came "
        f"between it and its own push, {stale['missed_max']} at most"
    )


def _print_table(strategy: str, cases: Sequence[Mapping[str, Any]]) -> None:
    print(f"{strategy} against one process, float64, unowned rows poisoned with NaN\n")
    print("ranks   max|d loss|   max|d grad|  max|d param|   bytes")
    for case in cases:
        keys = ("max_loss_diff", "max_grad_diff", "max_param_diff")
        diffs = "".join(f"{case[key]:14.2e}" if key in case else f"{'':14s}" for key in keys)
        verdict = "equal" if case["bytes_match"] else "DIFFER"
        print(f"{case['ranks']:5d}{diffs}   {verdict}{'' if passed(case) else '   FAILED'}")
    for case in cases:
        if "staleness" in case:
            print(f"\n{case['ranks']} ranks and {case['servers']} server: {_staleness(case)}")
    print(f"\nbytes over all steps and ranks, {cases[-1]['ranks']} ranks")
    for op in cases[-1]["ops"]:
        print(f"  {op['name']:14s}{op['recorded_bytes']:14d} recorded{op['formula_bytes']:14d} = {op['formula']}")


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(prog="des_ref.certify", description=__doc__.split("\n")[0])
    p.add_argument("--ranks", default="2,4", help="numbers of ranks, comma-separated (default: 2,4)")
    p.add_argument("--steps", type=positive, default=30, help="steps to compare (default: 30)")
    p.add_argument("--model", default="deepfm_ml100k", help="model file, or the name of a shipped one")
    p.add_argument("--strategy", default="des_all_reduce", help=f"one of {', '.join(STRATEGIES)}")
    p.add_argument(
        "--optimizer",
        choices=tuple(ROW_OPTIMIZERS),
        default="rowwise_adagrad",
        help="of rows (default: rowwise_adagrad); replicated weights have Adam",
    )
    p.add_argument("--staleness", type=int, default=4, help="bound of ps_async, steps (default: 4)")
    p.add_argument("--placement", choices=("hash", "field"), help="of DES's rows on ranks (default: the model file's)")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    p.add_argument(
        "--pipeline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="send the next batch's ids while a step runs (default: yes)",
    )
    p.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = p.parse_args(argv)
    check_strategy(args.strategy)
    model = load_model(args.model).placed(args.placement)
    Network(model, _SEED, torch.float64, "cpu")  # what is wrong with a head is said once, here
    counts = args.ranks.split(",")
    if not all(c.strip().isdigit() and int(c) > 0 for c in counts):
        raise UsageError(f"--ranks {args.ranks!r}: write numbers above 0, such as 2,4")
    cases = []
    for count in map(int, counts):
        say(f"certifying {args.strategy} on {count} ranks, {args.steps} steps")
        cases.append(
            certify(
                Case(
                    count,
                    args.steps,
                    args.model,
                    args.strategy,
                    args.device,
                    args.pipeline,
                    args.optimizer,
                    args.staleness,
                    args.placement,
                )
            )
        )
    ok = all(map(passed, cases))
    if args.json:
        summary = {
            "schema_version": 1,
            "ok": ok,
            "strategy": args.strategy,
            "model": args.model,
            "placement": model.embedding.placement,
            "optimizer": args.optimizer,
            "equivalent": all(case["equivalent"] for case in cases),
            "pipeline": args.pipeline,
            "steps": args.steps,
            "bound": PARAMETER_BOUND,
            "max_param_diff": max(case["max_param_diff"] for case in cases),
            "bytes_match": all(case["bytes_match"] for case in cases),
            "cases": cases,
        }
        print(dump_json(summary), flush=True)
    else:
        _print_table(args.strategy, cases)
    if not ok:
        bad = ", ".join(str(case["ranks"]) for case in cases if not passed(case))
        raise CheckFailed(f"the certificate fails on {bad} ranks: parameters within {PARAMETER_BOUND}, bytes equal")
    return 0


if __name__ == "__main__":
    sys.exit(run("des_ref.certify", main))
