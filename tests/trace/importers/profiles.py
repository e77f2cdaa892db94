"""Profiles as PyTorch's profiler writes them, reduced to what the importer reads: two ranks, one step, three ops."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

RANKS = 2
# The layout is that of a profile of torch 2.1 (NCCL, 8 x V100); argument names are those of 2.13's
# torch/csrc/profiler/util.h.
SPLITS = ((96, 32), (64, 128))  # elements from each rank to each


def event(name: str, category: str, tid: int, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "pid": 7, "tid": tid, "ts": ts, "dur": dur, "args": args}


def launched(name: str, number: int, ts: float, stream: int, start: float, dur: float, **args: Any) -> list[Any]:
    """The launch of a kernel, and the kernel."""
    return [
        event("cudaLaunchKernelExC", "cuda_runtime", 7, ts, 4, correlation=number, **{"External id": number}),
        event(name, "kernel", 0, start, dur, stream=stream, correlation=number, **args) | {"tid": stream},
    ]


def nccl(rank: int, new: bool) -> dict[str, Any]:
    """A step of rank 0 or 1, at 1,000 us: a GEMM, an uneven all_to_all, an all_reduce in the backward pass.

    The last start and end of the all_to_all are 1,060 and 1,072 us, those of the all_reduce 1,150 and 1,230.
    """
    sent = sum(SPLITS[rank])
    received = sum(row[rank] for row in SPLITS)
    a2a: dict[str, Any] = {"start": (1040, 1060)[rank], "end": (1072, 1071)[rank]}
    reduce: dict[str, Any] = {"start": (1150, 1110)[rank], "end": (1229, 1230)[rank]}
    arguments: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    if new:
        common = {"Process Group Name": "0", "Process Group Ranks": "[0, 1]", "Group size": 2}
        arguments = (
            {
                **common,
                **{"Collective name": "all_to_allv", "dtype": "Int", "In msg nelems": sent, "Out msg nelems": received},
                **{"In split size": str(list(SPLITS[rank])), "Out split size": str([row[rank] for row in SPLITS])},
            },
            {
                **common,
                **{"Collective name": "allreduce", "dtype": "Float", "In msg nelems": 5000, "Out msg nelems": 5000},
                **{"In split size": "[]", "Out split size": "[]"},
            },
        )
    on_autograd = {"tid": 8}
    host = [
        event("ProfilerStep#4", "user_annotation", 7, 1000, 400),
        event("c10d::alltoall_base_", "cpu_op", 7, 1020, 30, **_dims([received], [sent], kind="int")),
        event("nccl:all_to_all", "user_annotation", 7, 1022, 26, **_dims([sent], kind="int")),
        event("autograd::engine::evaluate_function: AddmmBackward0", "cpu_op", 8, 1090, 60),
        event("c10d::allreduce_", "cpu_op", 8, 1100, 30, **{"Input Dims": [[], []], "Input type": ["TensorList", ""]}),
        event("nccl:all_reduce", "user_annotation", 8, 1102, 26, **_dims([5000], kind="float")),
        {"ph": "i", "name": "Iteration Start", "ts": 1000, "pid": 7, "tid": 7},
        event("PyTorch Profiler (0)", "Trace", 7, 900, 600),
    ]
    gemm = launched("volta_sgemm_128x32_nt", 1, 1005, 7, 1010, 20 + rank)
    to_all = launched(
        "ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*)", 2, 1030, 84, a2a["start"], a2a["end"] - a2a["start"]
    )
    sums = launched(
        "ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*)", 3, 1104, 84, reduce["start"],
        reduce["end"] - reduce["start"],
    )  # fmt: skip
    sums[0] |= on_autograd
    for kernel, extra in ((to_all[1], arguments[0]), (sums[1], arguments[1])):
        kernel["args"] |= extra
    return {
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": "Tesla V100-SXM2-32GB"}],
        "distributedInfo": {"backend": "nccl", "rank": rank, "world_size": RANKS},
        "traceEvents": [*sums, *host, *gemm, *to_all],
    }


def _dims(*shapes: list[int], kind: str) -> dict[str, Any]:
    return {"Input Dims": [*shapes, [], []], "Input type": [*[kind] * len(shapes), "", "Scalar"]}


def write(folder: Path, profiles: list[dict[str, Any]], packed: bool = False) -> list[Path]:
    """Write one file per profile. Rank 1's comes first by name, as the order of files must not matter."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, profile in enumerate(profiles):
        text = json.dumps(profile).encode()
        file = folder / f"worker{len(profiles) - number}.pt.trace.json{'.gz' if packed else ''}"
        file.write_bytes(gzip.compress(text) if packed else text)
        files.append(file)
    return files
