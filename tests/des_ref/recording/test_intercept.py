"""An interceptor of collectives sees those of its own thread, and those of threads without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist

from des_ref.comm import open_comm
from des_ref.recording.intercept import intercepted


def noting(seen: list[str]) -> Callable[[str, Callable[[], Any], Sequence[Any]], Any]:
    def launch(name: str, run: Callable[[], Any], args: Sequence[Any]) -> Any:
        seen.append(name)
        return run()

    return launch


def test_a_thread_has_its_own_and_others_share_that_of_the_first() -> None:
    def beside() -> None:
        with intercepted(noting(theirs)):
            dist.broadcast(torch.ones(2), src=0)

    ours: list[str] = []
    theirs: list[str] = []
    with open_comm("cpu"), ThreadPoolExecutor(1) as thread:
        dist.barrier()
        with intercepted(noting(ours)):
            dist.all_reduce(torch.ones(2))
            thread.submit(beside).result()
            thread.submit(dist.all_gather, [torch.ones(2)], torch.ones(2)).result()
        dist.barrier()
    assert (ours, theirs) == (["allreduce_", "allgather_"], ["broadcast_"])


@pytest.mark.parametrize("inference", [False, True])
def test_a_call_does_and_raises_the_same(inference: bool) -> None:
    seen: list[str] = []
    with open_comm("cpu"), intercepted(noting(seen)), torch.inference_mode(inference):
        values = torch.arange(3.0)
        dist.all_reduce(values, async_op=True).wait()
        gathered = torch.zeros(3)
        dist.all_gather([gathered], values)
        with pytest.raises(RuntimeError):
            dist.all_gather([gathered[:2]], values)
    assert gathered.tolist() == [0.0, 1.0, 2.0] and seen[:2] == ["allreduce_", "allgather_"]
