"""Check the trainer on this machine's GPUs, one or several, in under ten minutes:

    python -m des_ref.gpu                     the table on stdout, all files in gpu-out/
    python -m des_ref.gpu --only sums,waits   the checks whose names begin so
    python -m des_ref.gpu --device cpu        the same on two processes of a CPU, as a test of the checks

Every check has its own processes and its own row, so that one that fails, dies or hangs hides no other.
Without a GPU there is nothing to check: one line, exit code 0. docs/gpu.md explains the table.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from des_ref.cli import Parser, output_folder, say
from des_ref.gpu.checks import Check, checks
from des_ref.gpu.machine import CheckTimedOut, Figures, Machine, Skipped
from des_ref.gpu.processes import LOG
from dessim.errors import CheckFailed, DessimError, UsageError
from dessim.files import write_json
from dessim.units import parse_time

_LONGEST_S = 180.0  # of a check; one that hangs must leave time for others
_CLUSTERS = (("A100", "a100-8x_leafspine_16"), ("", "h100-8x_rail_128"))  # by part of the GPU's name
_NO_TIME = "no time left: raise --time-budget"
_STATES = ("passed", "failed", "skipped")


@dataclass(frozen=True, slots=True)
class Row:
    """The result of a check. `reason` says why it failed or was skipped."""

    name: str
    state: str
    seconds: float
    reason: str = ""
    figures: Figures = field(default_factory=dict)

    def __str__(self) -> str:
        figures = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in self.figures.items()
        )
        return f"{self.name:20s} {self.state:8s} {self.seconds:7.1f} s  {self.reason or figures}"


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = args.device or "cuda"
    if device == "cuda" and not gpus:
        print("no GPU that torch can use: nothing to check; --device cpu runs the checks on the CPU")
        return 0
    ranks = _ranks(args.ranks, gpus if device == "cuda" else 2, device)
    cluster = args.cluster or _cluster(device)
    selected = _selected(list(checks(ranks)), args.only)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / LOG).unlink(missing_ok=True)
    machine = Machine(device, args.out, cluster, args.small)
    about = _about(device, gpus) | {"ranks": ranks, "cluster": cluster}
    rows: list[Row] = []
    started_at = time.monotonic()
    for check in selected:
        rows.append(_row(check, machine, args.time_budget - (time.monotonic() - started_at)))
        print(rows[-1], flush=True)
        _write(args.out / "gpu.json", about, rows, started_at, is_complete=len(rows) == len(selected))
    counts = {state: sum(row.state == state for row in rows) for state in _STATES}
    say(f"{', '.join(f'{count} {state}' for state, count in counts.items())}: {args.out / 'gpu.json'}")
    if counts["failed"]:
        raise CheckFailed(f"failed: {', '.join(row.name for row in rows if row.state == 'failed')}")
    return 0


def _row(check: Check, machine: Machine, left_s: float) -> Row:
    """Run a check, whatever happens in it."""
    if left_s <= 0:
        return Row(check.name, "skipped", 0.0, _NO_TIME)
    started_at = time.monotonic()
    state = "passed"
    reason = ""
    figures = {}
    try:
        figures = check.run(machine, min(left_s, _LONGEST_S))
    except Skipped as skipped:
        state = "skipped"
        reason = str(skipped)
    except CheckTimedOut as timed_out:
        # A check that had less than its time has not failed.
        state, reason = ("skipped", _NO_TIME) if left_s < _LONGEST_S else ("failed", str(timed_out))
    except DessimError as error:
        state = "failed"
        reason = " ".join(str(error).split())
    except Exception as error:  # a bug in one check must not hide the others
        state = "failed"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Row(check.name, state, round(time.monotonic() - started_at, 2), reason, figures)


def _write(path: Path, about: dict[str, Any], rows: Sequence[Row], started_at: float, is_complete: bool) -> None:
    result = {
        "schema_version": 1,
        **about,
        "complete": is_complete,
        "ok": is_complete and not any(row.state == "failed" for row in rows),
        "seconds": round(time.monotonic() - started_at, 2),
        "checks": [asdict(row) for row in rows],
    }
    write_json(path, result)


def _about(device: str, gpus: int) -> dict[str, Any]:
    is_cuda = device == "cuda"
    return {
        "device": device,
        "gpus": [torch.cuda.get_device_name(i) for i in range(gpus)] if is_cuda else [],
        "processor": platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if is_cuda else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if is_cuda else None,
        "system": platform.platform(),
    }


def _cluster(device: str) -> str:
    if device != "cuda":
        return "one-switch_16"
    name = torch.cuda.get_device_name(0)
    return next(cluster for part, cluster in _CLUSTERS if part in name)


def _ranks(text: str | None, most: int, device: str) -> list[int]:
    """Numbers of ranks: those of the option, or powers of two and all devices."""
    if text is None:
        return sorted({*(n for n in (1, 2, 4, 8) if n <= most), most})
    counts = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if not all(counts) or (device == "cuda" and max(counts) > most):
        raise UsageError(f"--ranks {text!r}: write numbers from 1 to {most}, such as 1,2")
    return sorted(set(counts))


def _selected(all_checks: list[Check], only: str | None) -> list[Check]:
    if only is None:
        return all_checks
    wanted = [part.strip() for part in only.split(",")]
    for part in wanted:
        if not any(check.name.startswith(part) for check in all_checks):
            raise UsageError(
                f"--only {part!r}: no check begins so; choose from {', '.join(c.name for c in all_checks)}"
            )
    return [check for check in all_checks if check.name.startswith(tuple(wanted))]


def _seconds(text: str) -> float:
    """A time with its unit, such as 90s or 10min."""
    try:
        return float(parse_time(text))
    except DessimError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> Parser:
    p = Parser(prog="des_ref.gpu", description=__doc__.split("\n")[0])
    p.add_argument("--device", choices=("cuda", "cpu"), help="cpu runs the checks without a GPU (default: cuda)")
    p.add_argument("--ranks", help="numbers of GPUs, comma-separated (default: powers of two up to all of them)")
    p.add_argument("--only", metavar="NAMES", help="beginnings of the names of checks, comma-separated")
    p.add_argument("--cluster", metavar="FILE", help="topology of this machine, to predict steps (default: by its GPU)")
    p.add_argument("--small", action="store_true", help="sizes that a CPU trains in a second")
    p.add_argument(
        "--time-budget", type=_seconds, default=600.0, metavar="TIME", help="default: 10min; the rest is skipped"
    )
    p.add_argument(
        "-o", "--out", type=output_folder, default=Path("gpu-out"), metavar="FOLDER", help="default: gpu-out"
    )
    return p
