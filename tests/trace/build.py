"""A small correct trace: two ranks, a lookup, an uneven all_to_all, an all_reduce that overlaps a compute op."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dessim.trace.schema import Collective, Header, Kind, Op, Phase

RANKS = 2


def header(**changes: Any) -> Header:
    base = Header(
        name="tiny",
        world_size=RANKS,
        backend="gloo",
        device="cpu",
        strategy="des_all_reduce",
        model={"name": "tiny", "nested": {"widths": [4, 2]}},
        symbols={"N": 2.0, "B": 64.0, "K": 18.0, "s": 4.0},
        groups={"world": (0, 1), "first": (0,)},
        warmup_steps=(0, 1),
        recorded_steps=(2, 3, 4),
        clock_offset_us=(0.0, -12.5),
        step_us={"recorded": (110.0, 112.0, 111.0), "plain": (100.0, 101.5)},
        software={"torch": "2.9.0"},
    )
    return replace(base, **changes)


def step_ops(rank: int, step: int) -> list[Op]:
    """Four ops of one step; ids differ from rank to rank, so the all_to_all is uneven."""
    at = 1000.0 * step
    first = 10 * step
    ids = 30 + rank + step
    send = (8 * ids, 16)
    common: dict[str, Any] = {"step": step, "group": "world", "kind": Kind.COLLECTIVE, "stream": "comm"}
    return [
        Op(
            first,
            step,
            Phase.INPUT,
            Kind.COMPUTE,
            "lookup",
            "compute",
            at,
            20.0,
            flops=64,
            flops_size="B",
            cpu_us=4.5,
            mem_bytes=256,
        ),
        Op(
            id=first + 1,
            phase=Phase.INPUT,
            name="ids",
            start_us=at + 20,
            dur_us=15.0,
            deps=(first,),
            collective=Collective.ALL_TO_ALL,
            bytes=sum(send),
            dtype="int64",
            splits=send,
            size="8*n + 16",
            vars={"n": float(ids)},
            **common,
        ),
        Op(
            id=first + 2,
            phase=Phase.FORWARD,
            name="partials",
            start_us=at + 35,
            dur_us=40.0,
            deps=(first + 1,),
            collective=Collective.ALL_REDUCE,
            bytes=64 * 18 * 4,
            dtype="float32",
            size="B*K*s",
            **common,
        ),
        Op(first + 3, step, Phase.BACKWARD, Kind.COMPUTE, "backward", "compute", at + 60, 30.0, (first + 1,)),
    ]


def all_ops(steps: tuple[int, ...] = (2, 3, 4)) -> list[list[Op]]:
    return [[op for step in steps for op in step_ops(rank, step)] for rank in range(RANKS)]
