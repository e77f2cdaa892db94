"""Time collectives and messages, in nccl-tests' columns:

    torchrun --standalone --nproc-per-node=4 -m des_ref.bench
    torchrun ... -m des_ref.bench --ops all_reduce,all_to_all --sizes 64KiB,1MiB,4MiB --iterations 10 -o bench.json
    torchrun ... -m des_ref.bench --cases cases.json -o bench.json

bench_cases.py lists what can be timed. An iteration starts at a barrier and lasts from the last rank's start to the
last rank's end, on clocks that pings have made comparable. The table shows the median over the iterations, the file
all of them. Sizes are S of nccl-tests (dessim.trace.schema), per rank. algbw = S / t; busbw = algbw times 2(n-1)/n for
all_reduce, (n-1)/n for the others; GB/s is 1e9 bytes/s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from des_ref.bench_cases import BYTES, COLLECTIVES, OPS, Case, Groups, Part, Runner, load_cases, whole
from des_ref.cli import Parser, output_file, positive, run
from des_ref.comm import Comm, open_comm, record
from des_ref.machine import core_seconds
from des_ref.recording.clocks import clock_offsets_us
from dessim.errors import UnitError, UsageError
from dessim.files import write_json
from dessim.processes import leave
from dessim.trace.schema import Collective, sent_factor
from dessim.units import parse_size

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Times of a case, the same on every rank.

    seconds        of each iteration, [iterations]
    cores_busy_s   core seconds that were used on this machine during the iterations
    cores_s        core seconds that were available on it
    """

    seconds: Floats
    cores_busy_s: float
    cores_s: float

    @property
    def median_s(self) -> float:
        return float(np.median(self.seconds))


def measure(comm: Comm, case: Case, groups: Groups) -> Measurement:
    """Time a case. Every rank calls it. `groups` caches process groups between cases."""
    runner = Runner(comm, case, groups)
    # perf_counter is comparable within one machine only, so offsets are always measured.
    offset_us = clock_offsets_us(comm, _now_us)[comm.rank]
    spans_us = []
    cores_before = core_seconds()
    for i in range(case.warmup + case.iterations):
        if i == case.warmup:
            cores_before = core_seconds()
        comm.barrier()
        runner.wait(i)
        start_us = _now_us()
        runner(i)
        comm.synchronize()
        end_us = _now_us()
        if i >= case.warmup:
            spans_us += [start_us + offset_us, end_us + offset_us] if runner.takes_part else [-np.inf, -np.inf]
    cores_after = core_seconds()
    table = np.array(comm.gather_rows("spans", spans_us)).reshape(comm.world_size, case.iterations, 2)
    seconds = (table[:, :, 1].max(axis=0) - table[:, :, 0].max(axis=0)) / 1e6
    return Measurement(seconds, cores_after[0] - cores_before[0], cores_after[1] - cores_before[1])


def _now_us() -> float:
    return time.perf_counter_ns() / 1e3


def _selected_cases(args: argparse.Namespace, world_size: int) -> list[Case]:
    """The cases that the options name: those of a file, or every op in every size on all ranks."""
    if args.cases is not None:
        return load_cases(args.cases, world_size)
    ops = args.ops.split(",")
    if unknown := [op for op in ops if op not in OPS]:
        raise UsageError(f"unknown op {unknown[0]!r}; choose from {', '.join(OPS)}")
    try:
        sizes = [whole(int(parse_size(text)), world_size) for text in args.sizes.split(",")]
    except UnitError as error:
        raise UsageError(f"--sizes: {error}") from None
    all_ranks = tuple(range(world_size))
    return [Case((Part(op, size, all_ranks),), args.iterations, args.warmup) for op in ops for size in sizes]


def _header(comm: Comm) -> str:
    return (
        f"# {comm.world_size} ranks, {comm.backend}\n#\n"
        "#            op        size       count    type  redop        time   algbw   busbw\n"
        "#                       (B)  (elements)                       (us)  (GB/s)  (GB/s)"
    )


def _lines(case: Case, seconds: float) -> str:
    """A line in nccl-tests' columns for each part of a case. Parts run at once, so all have the time of the case."""
    lines = []
    for part in case.parts:
        algbw = part.bytes / seconds / 1e9
        busbw = algbw * sent_factor(Collective(part.op), len(part.ranks)) if part.op in COLLECTIVES else algbw
        redop = "sum" if part.op in (Collective.ALL_REDUCE, Collective.REDUCE_SCATTER) else "none"
        sizes = f"{part.op:>15s}{part.bytes:12d}{part.bytes // BYTES:12d}"
        lines.append(f"{sizes}   float{redop:>7s}{seconds * 1e6:12.1f}{algbw:8.3f}{busbw:8.3f}")
    return "\n".join(lines)


def _result(case: Case, measurement: Measurement) -> dict[str, Any]:
    """The JSON object of a case. A case of one part has the part's keys at the top, too."""
    parts = [part.to_json() for part in case.parts]
    return {
        **(parts[0] if len(parts) == 1 else {}),
        "parts": parts,
        "delays": case.delays,
        "connections": case.connections,
        "seconds": measurement.median_s,
        "mean_seconds": float(measurement.seconds.mean()),
        "all_seconds": measurement.seconds.tolist(),
        "iterations": case.iterations,
        "cores_busy_s": measurement.cores_busy_s,
        "cores_s": measurement.cores_s,
    }


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="des_ref.bench", description="Time collectives and messages, in nccl-tests' columns.")
    p.add_argument("--ops", default=",".join(COLLECTIVES), help="ops, comma-separated (default: the four collectives)")
    p.add_argument("--sizes", default="4KiB,64KiB,1MiB,4MiB", help="S per rank with units, comma-separated")
    p.add_argument("--cases", type=Path, metavar="FILE", help="time the cases of a JSON file (des_ref/bench_cases.py)")
    p.add_argument(
        "--iterations", type=positive, metavar="N", default=10, help="timed iterations of each case (default: 10)"
    )
    p.add_argument(
        "--warmup", type=positive, metavar="N", default=3, help="iterations before the timed ones (default: 3)"
    )
    p.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    p.add_argument("-o", "--out", "--json", type=output_file, metavar="FILE", help="write a JSON object to this file")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    with open_comm(args.device) as comm:
        cases = _selected_cases(args, comm.world_size)
        results = []
        groups: Groups = {}
        if comm.rank == 0:
            print(_header(comm), flush=True)
        for case in cases:
            measurement = measure(comm, case, groups)
            results.append(_result(case, measurement))
            if comm.rank == 0:
                print(_lines(case, measurement.median_s), flush=True)
        if comm.rank == 0 and args.out is not None:
            write_json(
                args.out,
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
