"""The equivalence certificate: training on n ranks is what training on one process is, to rounding and to the byte.

    python -m des_ref.certify                       2 and 4 ranks, 30 steps, float64
    python -m des_ref.certify --ranks 1,2,4,8 --strategy des_reduce_scatter --json
    python -m des_ref.certify --all                 every shipped model, placement, strategy, optimizer; 1, 2, 4 ranks
    python -m des_ref.certify --quick               of those enough to hold every pair of choices, 10 steps
    python -m des_ref.certify --all --model deepfm --strategy des_all_reduce        those of one model and strategy
    python -m des_ref.certify --codec activations=bf16,dense=threshold:0.99         what codecs lose

What a case is: case.py. How they run: group.py. Which there are: matrix.py.

Exit code 3 when a bound breaks: parameters within 1e-12, bytes equal, no NaN. ps_async and codecs are not exact and are
not blamed for it: how stale it was, and what they lose, is measured and shown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from des_ref.certify.case import SEED, Case
from des_ref.certify.group import certify_all
from des_ref.certify.matrix import every_case, pairwise
from des_ref.certify.page import write_page
from des_ref.certify.show import PARAMETER_BOUND, passed, print_matrix, print_table, summary
from des_ref.cli import Parser, natural, output_file, positive, say
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES, check_strategy
from dessim.errors import CheckFailed, UsageError
from dessim.files import dump_json
from dessim.workload.coded_plan import coded
from dessim.workload.strategies import plan, spec_of

MAX_RANKS = 64  # all on this machine, each a process that imports torch


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="des_ref.certify", description=__doc__.split("\n")[0])
    p.add_argument("--all", action="store_true", help="every case, models at small sizes; other flags narrow it down")
    p.add_argument("--quick", action="store_true", help="of --all, few that hold every pair of choices")
    p.add_argument("--ranks", help="numbers of ranks, comma-separated (default: 2,4; with --all 1,2,4)")
    p.add_argument("--steps", type=positive, help="steps to compare (default: 30; with --quick 10)")
    p.add_argument("--model", help="model file, or the name of a shipped one (default: deepfm_ml100k)")
    p.add_argument(
        "--strategy",
        help=f"one of {', '.join(STRATEGIES)} (default: des_all_reduce); options behind it: ps_sync+hot_rows=1000",
    )
    p.add_argument(
        "--optimizer",
        choices=tuple(ROW_OPTIMIZERS),
        help="of rows (default: rowwise_adagrad); replicated weights have Adam",
    )
    p.add_argument("--staleness", type=natural, default=4, help="bound of ps_async, steps (default: 4)")
    p.add_argument(
        "--codec", help="what values travel as, such as bf16 (des_ref.train --help); not with --all, --quick"
    )
    p.add_argument("--placement", choices=("hash", "field"), help="of DES's rows on ranks (default: the model file's)")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    p.add_argument(
        "--pipeline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="send the next batch's ids while a step runs (default: yes)",
    )
    p.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    p.add_argument("--html", type=output_file, metavar="FILE", help="write a page that stands alone")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    many = args.all or args.quick
    args.steps = args.steps or (10 if args.quick else 30)
    if args.strategy is not None:
        check_strategy(args.strategy)
    if many and args.codec is not None:
        raise UsageError("--codec certifies one model and strategy: leave out --all and --quick")
    cases = _matrix(args) if many else _single(args)
    how = "quick" if args.quick else "all" if args.all else f"{cases[0].strategy} on {args.ranks or '2,4'} ranks"
    if args.device == "cuda" and (most := max(case.ranks for case in cases)) > torch.cuda.device_count():
        raise UsageError(f"--device cuda: {most} ranks, but {torch.cuda.device_count()} GPUs")
    say(f"certifying {how}: {len(cases)} cases, {args.steps} steps")
    started = time.monotonic()
    results = certify_all(cases)
    seconds = time.monotonic() - started
    found = summary(cases, results, seconds)
    if args.html is not None:
        write_page(args.html, found)
    if args.json:
        print(dump_json(found), flush=True)
    elif many or any("error" in r for r in results):
        print_matrix(results, seconds)
    else:
        print_table(results)
    say(f"{len(cases)} cases took {seconds:.0f} s")
    if not found["ok"]:
        red = [r["case"] for r in results if not passed(r)]
        more = f" and {len(red) - 3} more" if len(red) > 3 else ""
        raise CheckFailed(
            f"the certificate fails for {'; '.join(red[:3])}{more}: parameters within {PARAMETER_BOUND}, bytes equal"
        )
    return 0


def _single(args: argparse.Namespace) -> list[Case]:
    """One model and strategy, at each number of ranks. Raises what its mistakes are, before any process starts."""
    first = Case(
        1,
        args.steps,
        args.model or "deepfm_ml100k",
        args.strategy or "des_all_reduce",
        args.device,
        args.pipeline,
        args.optimizer or "rowwise_adagrad",
        args.staleness,
        args.placement,
        codecs=args.codec or "",
    )
    model = first.load()
    if first.codes and spec_of(first.strategy).dedicated_servers:
        raise UsageError("--codec: ps_async sends to servers as they are; use ps_sync")
    coded(plan(first.strategy, model), model, first.codes)
    Network(model, SEED, torch.float64, "cpu")  # what is wrong with a head is said once, here
    first = replace(first, placement=model.embedding.placement)
    return [replace(first, ranks=n) for n in _ranks(args.ranks or "2,4")]


def _matrix(args: argparse.Namespace) -> list[Case]:
    pinned = {key: value for key in ("model", "strategy", "optimizer", "placement") if (value := getattr(args, key))}
    models = [args.model] if args.model else None
    cases = every_case(_ranks(args.ranks or "1,2,4"), args.steps, args.device, args.pipeline, args.staleness, models)
    cases = [case for case in cases if all(getattr(case, key) == value for key, value in pinned.items())]
    if not cases:
        choices = ", ".join(f"--{key} {value}" for key, value in pinned.items())
        raise UsageError(f"no case has {choices}: that placement is wrong for the model, or for no strategy but DES")
    return pairwise(cases) if args.quick else cases


def _ranks(text: str) -> list[int]:
    counts = text.split(",")
    if not all(c.strip().isdecimal() and 0 < int(c) <= MAX_RANKS for c in counts):
        raise UsageError(f"--ranks {text!r}: write numbers from 1 to {MAX_RANKS}, such as 2,4")
    return list(map(int, counts))
