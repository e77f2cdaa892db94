"""Collective micro-benchmark, in nccl-tests' columns:

    torchrun --standalone --nproc-per-node=4 -m des_ref.bench
    torchrun ... -m des_ref.bench --ops all_reduce,all_to_all --sizes 64KiB,1MiB,4MiB --iterations 10 --json bench.json
    torchrun ... -m des_ref.bench --cases cases.json --json bench.json

What can be timed is in des_ref/bench_ops.py. A run starts at a barrier and lasts from the last rank's start to the last
rank's end, on clocks made comparable by pings. The table shows the median over the iterations, the file all of them.
Sizes are S of nccl-tests (dessim.trace.schema), a rank. algbw = S / t; busbw = algbw times 2(n-1)/n for all_reduce,
(n-1)/n for the others; GB/s is 1e9 bytes/s.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from des_ref.bench_ops import BYTES, COLLECTIVES, OPS, Case, Groups, Part, Runner, load_cases, whole
from des_ref.cli import Parser, leave, output_file, positive, run
from des_ref.comm import Comm, open_comm, record
from des_ref.machine import core_seconds
from des_ref.recording.clocks import clock_offsets_us
from dessim.errors import UnitError, UsageError
from dessim.files import write_json
from dessim.trace.schema import Collective, sent_factor
from dessim.units import parse_size

Floats = npt.NDArray[np.float64]


def measure(comm: Comm, case: Case, groups: Groups) -> tuple[Floats, tuple[float, float]]:
    """Seconds of each iteration of a case, the same on every rank; of this machine's cores meanwhile the seconds that
    they worked, and all that they had."""
    run = Runner(comm, case, groups)
    # perf_counter shares its origin within a machine only; offsets are measured anyway.
    offset = clock_offsets_us(comm, _now_us)[comm.rank]
    spans = []
    before = core_seconds()
    for i in range(case.warmup + case.iterations):
        if i == case.warmup:
            before = core_seconds()
        comm.barrier()
        run.wait(i)
        start = _now_us()
        run(i)
        if comm.device.type == "cuda":
            torch.cuda.synchronize(comm.device)
        end = _now_us()
        if i >= case.warmup:
            spans += [start + offset, end + offset] if run.takes_part else [-np.inf, -np.inf]
    after = core_seconds()
    table = np.array(comm.gather_rows("spans", spans)).reshape(comm.world_size, case.iterations, 2)
    seconds = (table[:, :, 1].max(axis=0) - table[:, :, 0].max(axis=0)) / 1e6
    return seconds, (after[0] - before[0], after[1] - before[1])


def _now_us() -> float:
    return time.perf_counter_ns() / 1e3


def _asked(args: Any, world_size: int) -> list[Case]:
    """The cases that the flags name: a file's, or every op in every size on all ranks."""
    if args.cases is not None:
        return load_cases(args.cases, world_size)
    ops = args.ops.split(",")
    if unknown := [op for op in ops if op not in OPS]:
        raise UsageError(f"unknown op {unknown[0]!r}; choose from {', '.join(OPS)}")
    try:
        sizes = [whole(int(parse_size(part)), world_size) for part in args.sizes.split(",")]
    except UnitError as error:
        raise UsageError(f"--sizes: {error}") from None
    everyone = tuple(range(world_size))
    return [Case((Part(op, size, everyone),), args.iterations, args.warmup) for op in ops for size in sizes]


def _header(comm: Comm) -> str:
    return (
        f"# {comm.world_size} ranks, {comm.backend}\n#\n"
        "#            op        size       count    type  redop        time   algbw   busbw\n"
        "#                       (B)  (elements)                       (us)  (GB/s)  (GB/s)"
    )


def _line(case: Case, seconds: float) -> str:
    """Columns of nccl-tests; of several parts each with the time of all."""
    lines = []
    for part in case.parts:
        algbw = part.bytes / seconds / 1e9
        busbw = algbw * sent_factor(Collective(part.op), len(part.ranks)) if part.op in COLLECTIVES else algbw
        redop = "sum" if part.op in (Collective.ALL_REDUCE, Collective.REDUCE_SCATTER) else "none"
        sizes = f"{part.op:>15s}{part.bytes:12d}{part.bytes // BYTES:12d}"
        lines.append(f"{sizes}   float{redop:>7s}{seconds * 1e6:12.1f}{algbw:8.3f}{busbw:8.3f}")
    return "\n".join(lines)


def _result(case: Case, seconds: Floats, cores: tuple[float, float]) -> dict[str, Any]:
    parts = [part.to_json() for part in case.parts]
    return {
        **(parts[0] if len(parts) == 1 else {}),
        "parts": parts,
        "delays": case.delays,
        "connections": case.connections,
        "seconds": float(np.median(seconds)),
        "mean_seconds": float(seconds.mean()),
        "all_seconds": seconds.tolist(),
        "iterations": case.iterations,
        "cores_busy_s": cores[0],
        "cores_s": cores[1],
    }


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(prog="des_ref.bench", description=__doc__.split("\n")[0])
    p.add_argument("--ops", default=",".join(COLLECTIVES), help="ops, comma-separated")
    p.add_argument("--sizes", default="4KiB,64KiB,1MiB,4MiB", help="S, comma-separated, with units")
    p.add_argument("--cases", type=Path, metavar="FILE", help="JSON of cases (des_ref/bench_ops.py) instead")
    p.add_argument("--iterations", type=positive, default=10)
    p.add_argument("--warmup", type=positive, default=3)
    p.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    p.add_argument("--json", type=output_file, metavar="OUT", help="write the results here too")
    args = p.parse_args(argv)
    with open_comm(args.device) as comm:
        cases, results = _asked(args, comm.world_size), []
        groups: Groups = {}
        if comm.rank == 0:
            print(_header(comm), flush=True)
        for case in cases:
            seconds, cores = measure(comm, case, groups)
            results.append(_result(case, seconds, cores))
            if comm.rank == 0:
                print(_line(case, float(np.median(seconds))), flush=True)
        if comm.rank == 0 and args.json is not None:
            write_json(
                args.json,
                {
                    "schema_version": 1,
                    "world_size": comm.world_size,
                    "backend": comm.backend,
                    "device": comm.device.type,
                    "results": results,
                },
            )
    return 0


@record
def entry() -> None:
    leave(run("des_ref.bench", main))


if __name__ == "__main__":
    entry()
