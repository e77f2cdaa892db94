"""The equivalence certificate: training on n ranks equals training on one process, to rounding and to the byte.

    python -m des_ref.certify                       2 and 4 ranks, 30 steps, float64
    python -m des_ref.certify --ranks 1,2,4,8 --strategy des_reduce_scatter --json
    python -m des_ref.certify --all                 every shipped model, placement, strategy, optimizer; 1, 2, 4 ranks
    python -m des_ref.certify --quick               a subset of them with every pair of choices, 10 steps
    python -m des_ref.certify --all --model deepfm --strategy des_all_reduce        only one model and strategy
    python -m des_ref.certify --plan job.plan.toml  a plan of dessim plan, on its number of ranks
    python -m des_ref.certify --codec activations=bf16,dense=threshold:0.99         measure what codecs lose

case.py defines a case, compare.py and stale.py run one (stale.py with replay.py), group.py runs many, matrix.py lists
those of --all. scope.py states what they cover.

The exit code is 3 when a bound breaks: loss, gradients and parameters within 1e-12 in every step, bytes equal, no NaN.
ps_async is compared with one process that replays the order of its servers' pulls and pushes; that it differs from
synchronous training is no failure, nor is what codecs lose: both are measured and shown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from des_ref.certify.case import SEED, Case
from des_ref.certify.group import certify_all
from des_ref.certify.matrix import every_case, pairwise
from des_ref.certify.page import write_page
from des_ref.certify.show import BOUND, passed, print_matrix, print_table, summary
from des_ref.cli import Parser, add_allow_code, natural, output_file, positive, say
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES, check_strategy
from des_ref.strategies.composed import check_optimizers
from des_ref.strategies.planned import read_job
from des_ref.substitution.head import require_allowed
from dessim.errors import CheckFailed, UsageError
from dessim.files import dump_json, write_json
from dessim.units import counted
from dessim.workload.coded_plan import coded
from dessim.workload.composed import compose
from dessim.workload.model import load_model
from dessim.workload.strategies import plan

MAX_RANKS = 64  # all on this machine, each a process that imports torch
_MAX_NAMED_FAILURES = 3


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="des_ref.certify", description=__doc__.split("\n")[0])
    p.add_argument("--all", action="store_true", help="run every case, with small models; other options narrow it down")
    p.add_argument("--quick", action="store_true", help="run a few of the cases of --all with every pair of choices")
    p.add_argument("--ranks", help="numbers of ranks, comma-separated (default: 2,4; with --all or --quick 1,2,4)")
    p.add_argument("--steps", type=positive, metavar="N", help="steps to compare (default: 30; with --quick 10)")
    p.add_argument("--model", help="model file, or name of a shipped model (default: deepfm_ml100k)")
    add_allow_code(p)
    p.add_argument(
        "--ids",
        metavar="FILE",
        help="file of dessim ids: ids a sample and frequencies of the model's tables; not with --all, --quick",
    )
    p.add_argument(
        "--strategy",
        help=f"one of {', '.join(STRATEGIES)} (default: des_all_reduce), with options such as ps_sync+hot_rows=1000",
    )
    p.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="plan file of dessim plan, in place of --strategy: the strategy of each table, the number of ranks, and "
        "the model unless --model is given",
    )
    p.add_argument(
        "--optimizer",
        choices=tuple(ROW_OPTIMIZERS),
        help="optimizer of rows (default: rowwise_adagrad); dense parameters use Adam",
    )
    p.add_argument(
        "--staleness",
        type=natural,
        metavar="STEPS",
        default=4,
        help="for ps_async: bound of the staleness (default: 4)",
    )
    p.add_argument(
        "--codec", help="encode values on the wire, such as bf16 (see des_ref.train --help); not with --all, --quick"
    )
    p.add_argument(
        "--placement", choices=("hash", "field"), help="how DES places rows on ranks (default: as the model file says)"
    )
    p.add_argument(
        "--pooling",
        choices=("sum", "mean", "max", "attention"),
        help="how the ids of a field are pooled (default: as the model file says)",
    )
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device (default: auto)")
    p.add_argument(
        "--pipeline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="send the next batch's ids while a step runs (default: yes)",
    )
    p.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    p.add_argument("-o", "--out", type=output_file, metavar="FILE", help="write the JSON object to this file")
    p.add_argument("--html", type=output_file, metavar="FILE", help="write a self-contained HTML page to this file")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    has_many = args.all or args.quick
    args.steps = args.steps or (10 if args.quick else 30)
    cases = _cases(args)
    if args.quick or args.all:
        what = "a quick selection of all cases" if args.quick else "all cases"
    else:
        ranks = ",".join(str(case.ranks) for case in cases)
        what = f"{cases[0].strategy} on {ranks} {'rank' if ranks == '1' else 'ranks'}"
    say(f"certifying {what}: {counted(len(cases), 'case')}, {counted(args.steps, 'step')} each")
    started_at = time.monotonic()
    results = certify_all(cases)
    seconds = time.monotonic() - started_at
    certificate = summary(cases, results, seconds)
    if args.html is not None:
        write_page(args.html, certificate)
    if args.out is not None:
        write_json(args.out, certificate)
    if args.json:
        print(dump_json(certificate), flush=True)
    elif has_many or any("error" in r for r in results):
        print_matrix(results, seconds)
    else:
        print_table(results)
    say(f"{counted(len(cases), 'case')} took {seconds:.0f} s")
    _raise_failures(results)
    return 0


def _raise_failures(results: Sequence[Mapping[str, Any]]) -> None:
    """Raises CheckFailed, which names the first failed cases."""
    failed = [r["case"] for r in results if not passed(r)]
    if not failed:
        return
    named = "; ".join(failed[:_MAX_NAMED_FAILURES])
    hidden = len(failed) - _MAX_NAMED_FAILURES
    more = f" and {hidden} more" if hidden > 0 else ""
    required = f"loss, gradients and parameters within {BOUND} of one process, bytes equal to the formula"
    raise CheckFailed(f"the certificate failed for {named}{more}; required: {required}")


def _cases(args: argparse.Namespace) -> list[Case]:
    """The cases that the options select. Raises UsageError before any process starts."""
    has_many = args.all or args.quick
    if args.strategy is not None:
        check_strategy(args.strategy)
    if has_many and args.codec is not None:
        raise UsageError("--codec certifies one model and strategy: leave out --all and --quick")
    if has_many and args.ids is not None:
        raise UsageError("--ids certifies one model: leave out --all and --quick")
    if args.plan is not None and (has_many or args.strategy is not None):
        raise UsageError("--plan certifies one plan: leave out --all, --quick and --strategy")
    cases = _matrix(args) if has_many else _single(args)
    if args.device == "cuda" and (ranks := max(case.ranks for case in cases)) > torch.cuda.device_count():
        raise UsageError(f"--device cuda: {ranks} ranks, but {torch.cuda.device_count()} GPUs")
    return cases


def _single(args: argparse.Namespace) -> list[Case]:
    """One model and strategy, at each number of ranks."""
    model_name, job = read_job(args.plan, args.model, args.ids) if args.plan is not None else (args.model, None)
    first = Case(
        ranks=1,
        steps=args.steps,
        model=model_name or "deepfm_ml100k",
        strategy=(job and job.strategy) or args.strategy or "des_all_reduce",
        device=args.device,
        pipeline=args.pipeline,
        optimizer=args.optimizer or "rowwise_adagrad",
        staleness=args.staleness,
        placement=args.placement,
        pooling=args.pooling,
        codecs=args.codec or (job.codecs.text if job is not None else ""),
        ids=args.ids or "",
    )
    if job is not None and job.tables:
        first = first.planned(job.tables, job.replicas)
    model = first.load()
    require_allowed(model, args.allow_code)
    if first.codec_config and not first.is_synchronous:
        raise UsageError("--codec: ps_async does not encode what it sends to servers; use ps_sync")
    if first.tables:
        check_optimizers(first.optimizers(), first.replicas, first.tables)
    planned = compose(model, first.tables, first.replicas) if first.tables else plan(first.strategy, model)
    coded(planned, model, first.codec_config)
    Network(model, SEED, torch.float64, "cpu")  # reports a wrong head once, here, and not from every rank
    first = replace(first, placement=model.embedding.placement)
    ranks = _ranks(args.ranks or (str(job.gpus) if job is not None else "2,4"))
    if job is not None and ranks != [job.gpus]:
        raise UsageError(f"--ranks {args.ranks}: {args.plan} is for {job.gpus} ranks; leave --ranks out, or plan again")
    return [replace(first, ranks=n) for n in ranks]


def _matrix(args: argparse.Namespace) -> list[Case]:
    """The cases of --all or --quick that have the choices given on the command line."""
    axes = ("model", "strategy", "optimizer", "placement", "pooling")
    pinned = {key: value for key in axes if (value := getattr(args, key))}
    cases = every_case(
        ranks=_ranks(args.ranks or "1,2,4"),
        steps=args.steps,
        device=args.device,
        pipeline=args.pipeline,
        staleness=args.staleness,
        models=[args.model] if args.model else None,
    )
    if args.model is not None:
        require_allowed(load_model(args.model), args.allow_code)
    cases = [case for case in cases if all(getattr(case, key) == value for key, value in pinned.items())]
    if not cases:
        choices = ", ".join(f"--{key} {value}" for key, value in pinned.items())
        raise UsageError(f"no case has {choices}: the model does not allow it, or only DES can choose it")
    return pairwise(cases) if args.quick else cases


def _ranks(text: str) -> list[int]:
    counts = text.split(",")
    if not all(c.strip().isdecimal() and 0 < int(c) <= MAX_RANKS for c in counts):
        raise UsageError(f"--ranks {text!r}: write numbers from 1 to {MAX_RANKS}, such as 2,4")
    return list(map(int, counts))
