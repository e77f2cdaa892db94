"""Logs as nccl-tests prints them, made up."""

from __future__ import annotations

from collections.abc import Sequence

TIMES = (
    (8, 13.42),
    (1024, 15.9),
    (65536, 24.8),
    (1 << 20, 36.9),
    (8 << 20, 92.0),
    (64 << 20, 322.0),
    (1 << 30, 4080.0),
)
_BUS = {"all_reduce": 2 * 7 / 8, "all_gather": 7 / 8, "alltoall": 7 / 8, "broadcast": 1.0}


def header(op: str = "all_reduce", ranks: int = 8, hosts: int = 1, device: str = "NVIDIA H100 80GB HBM3") -> list[str]:
    per_host = ranks // hosts
    return [
        "# nccl-tests version 2.17.6 nccl-headers=22902 nccl-library=22902",
        f"# Collective test starting: {op}_perf",
        "# nThread 1 nGpus 1 minBytes 8 maxBytes 1073741824 step: 2(factor) warmup iters: 5 iters: 20 validation: 1",
        "#",
        "# Using devices",
        *(
            f"#  Rank {rank:2d} Group  0 Pid  {4000 + rank} on      node{rank // per_host} device  {rank % per_host} "
            f"[0000:19:00] {device}"
            for rank in range(ranks)
        ),
        "#",
        "#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw "
        "#wrong",
        "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)",
    ]


def row(size: int, time: float, op: str = "all_reduce", wrong: int = 0) -> str:
    algbw = size / time * 1e-3
    place = f"{time:8.2f} {algbw:7.2f} {algbw * _BUS[op]:7.2f} {wrong:6d}"
    return f"{size:12d} {size // 4:13d}     float     sum      -1 {place} {place}"


def log(
    op: str = "all_reduce", times: Sequence[tuple[int, float]] = TIMES, ranks: int = 8, hosts: int = 1, **more: str
) -> str:
    end = ["# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 120.5", "#"]
    return "\n".join([*header(op, ranks, hosts, **more), *(row(size, time, op) for size, time in times), *end]) + "\n"
