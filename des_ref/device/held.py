"""The memory that a call holds at most at a time, as the allocator of its device counts it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch._C._profiler import _EventType

from des_ref.comm import Comm


def most_held(comm: Comm, call: Callable[[], object]) -> int:
    """Bytes that a call on the device of `comm` holds at most at a time, beyond those held before it."""
    if comm.device.type == "cuda":
        comm.synchronize()
        torch.cuda.reset_peak_memory_stats(comm.device)
        before = torch.cuda.memory_allocated(comm.device)
        call()
        comm.synchronize()
        return int(torch.cuda.max_memory_allocated(comm.device) - before)
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    return _most(_allocations(profile.profiler.kineto_results.experimental_event_tree()))


def _most(allocations: Iterable[Any]) -> int:
    """The most that allocations and releases add up to.

    A release counts what was allocated at its address. The size that the profiler states may be that of an allocation
    in an earlier profile, at an address that has been reused since.
    """
    sizes: dict[int, int] = {}
    held = most = 0
    for event in sorted(allocations, key=lambda event: event.start_time_ns):
        address, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        if size > 0:
            sizes[address] = size
            held += size
            most = max(most, held)
        else:
            held -= sizes.pop(address, 0)
    return most


def _allocations(events: Iterable[Any]) -> Iterator[Any]:
    """The allocations and releases among events and all that they contain."""
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event
        yield from _allocations(event.children)
