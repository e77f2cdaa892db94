"""Collective micro-benchmark, in nccl-tests' columns:

    torchrun --standalone --nproc-per-node=4 -m des_ref.bench
    torchrun ... -m des_ref.bench --ops all_reduce,all_to_all --sizes 64KiB,1MiB,4MiB --iterations 10 --json bench.json

A run of a collective starts at a barrier and lasts from the last rank's start to the last rank's end, on clocks made
comparable by pings. The table shows the median over the iterations, the file the mean beside it. Sizes are S of
nccl-tests (dessim.trace.schema), a rank. algbw = S / t; busbw = algbw times 2(n-1)/n for all_reduce, (n-1)/n for the
others; GB/s is 1e9 bytes/s.

gloo runs reduce_scatter as a whole all_reduce: its busbw shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from des_ref.cli import Parser, leave, positive, run
from des_ref.comm import Comm, open_comm, record
from des_ref.trace_session import clock_offsets_us
from dessim.errors import UnitError, UsageError
from dessim.files import write_json
from dessim.trace.schema import Collective, sent_factor
from dessim.units import parse_size

_BYTES = 4  # float32, as trained


def _all_reduce(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    comm.all_reduce("bench", full).wait()


def _all_to_all(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    comm.all_to_all("bench", torch.empty_like(full), full, None, None).wait()


def _all_gather(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    comm.all_gather("bench", full, chunk).wait()


def _reduce_scatter(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    comm.reduce_scatter("bench", chunk, full).wait()


OPS: dict[str, Callable[[Comm, Tensor, Tensor], None]] = {
    Collective.ALL_REDUCE: _all_reduce,
    Collective.ALL_TO_ALL: _all_to_all,
    Collective.ALL_GATHER: _all_gather,
    Collective.REDUCE_SCATTER: _reduce_scatter,
}


def measure(comm: Comm, op: str, size: int, iterations: int, warmup: int) -> tuple[float, float]:
    """Median and mean seconds of one collective of `size` bytes (S), the same on every rank."""
    full = torch.ones(size // _BYTES, device=comm.device)
    chunk = torch.ones(len(full) // comm.world_size, device=comm.device)
    # perf_counter shares its origin within a machine only; offsets are measured anyway.
    offset = clock_offsets_us(comm, _now_us)[comm.rank]
    spans = []
    for i in range(warmup + iterations):
        comm.barrier()
        start = _now_us()
        OPS[op](comm, full, chunk)
        if comm.device.type == "cuda":
            torch.cuda.synchronize(comm.device)
        end = _now_us()
        if i >= warmup:
            spans += [start + offset, end + offset]
    table = np.array(comm.gather_rows("spans", spans)).reshape(comm.world_size, iterations, 2)
    seconds = (table[:, :, 1].max(axis=0) - table[:, :, 0].max(axis=0)) / 1e6
    return float(np.median(seconds)), float(seconds.mean())


def _now_us() -> float:
    return time.perf_counter_ns() / 1e3


def _sizes(text: str, world_size: int) -> list[int]:
    """Bytes, rounded up so that each of the n chunks holds whole floats."""
    step = _BYTES * world_size
    try:
        return [max(1, -(-int(parse_size(part)) // step)) * step for part in text.split(",")]
    except UnitError as error:
        raise UsageError(f"--sizes: {error}") from None


def _header(comm: Comm) -> str:
    return (
        f"# {comm.world_size} ranks, {comm.backend}\n#\n"
        "#            op        size       count    type  redop        time   algbw   busbw\n"
        "#                       (B)  (elements)                       (us)  (GB/s)  (GB/s)"
    )


def _line(op: str, size: int, seconds: float, n: int) -> str:
    algbw = size / seconds / 1e9
    busbw = algbw * sent_factor(Collective(op), n)
    redop = "sum" if op in (Collective.ALL_REDUCE, Collective.REDUCE_SCATTER) else "none"
    return f"{op:>15s}{size:12d}{size // _BYTES:12d}   float{redop:>7s}{seconds * 1e6:12.1f}{algbw:8.3f}{busbw:8.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(prog="des_ref.bench", description=__doc__.split("\n")[0])
    p.add_argument("--ops", default=",".join(OPS), help="collectives, comma-separated")
    p.add_argument("--sizes", default="4KiB,64KiB,1MiB,4MiB", help="S, comma-separated, with units")
    p.add_argument("--iterations", type=positive, default=10)
    p.add_argument("--warmup", type=positive, default=3)
    p.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    p.add_argument("--json", type=Path, metavar="OUT", help="write the results here too")
    args = p.parse_args(argv)
    ops = args.ops.split(",")
    if unknown := [op for op in ops if op not in OPS]:
        raise UsageError(f"unknown collective {unknown[0]!r}; choose from {', '.join(OPS)}")
    with open_comm(args.device) as comm:
        sizes = _sizes(args.sizes, comm.world_size)
        results: list[dict[str, Any]] = []
        if comm.rank == 0:
            print(_header(comm), flush=True)
        for op in ops:
            for size in sizes:
                seconds, mean = measure(comm, op, size, args.iterations, args.warmup)
                results.append(
                    {
                        "op": str(op),
                        "bytes": size,
                        "seconds": seconds,
                        "mean_seconds": mean,
                        "iterations": args.iterations,
                    }
                )
                if comm.rank == 0:
                    print(_line(op, size, seconds, comm.world_size), flush=True)
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
