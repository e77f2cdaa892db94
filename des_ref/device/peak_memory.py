"""The peak memory of a call, as the allocator of its device counts it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch._C._profiler import _EventType

from des_ref.comm import Comm


def peak_bytes(comm: Comm, call: Callable[[], object]) -> int:
    """Peak bytes that a call allocates on the device of `comm`, beyond those allocated before it."""
    if comm.device.type == "cuda":
        comm.synchronize()
        torch.cuda.reset_peak_memory_stats(comm.device)
        before = torch.cuda.memory_allocated(comm.device)
        call()
        comm.synchronize()
        return int(torch.cuda.max_memory_allocated(comm.device) - before)
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    return _peak(_allocations(profile.profiler.kineto_results.experimental_event_tree()))


def _peak(allocations: Iterable[Any]) -> int:
    """The largest total of bytes allocated and not yet released.

    The size of a release is that of the last allocation at its address. The profiler's own size of a release may be
    wrong: that of an allocation in an earlier profile, at an address that has been reused since.
    """
    sizes: dict[int, int] = {}
    allocated = 0
    peak = 0
    for event in sorted(allocations, key=lambda event: event.start_time_ns):
        address = event.extra_fields.ptr
        size = event.extra_fields.alloc_size
        if size > 0:
            sizes[address] = size
            allocated += size
            peak = max(peak, allocated)
        else:
            allocated -= sizes.pop(address, 0)
    return peak


def _allocations(events: Iterable[Any]) -> Iterator[Any]:
    """The allocations and releases among events and their descendants."""
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event
        yield from _allocations(event.children)
