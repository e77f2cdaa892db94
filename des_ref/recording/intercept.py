"""Hands the collectives and messages that a process launches to a recorder, also those that bypass comm.py.

All are operators of torch's namespace c10d. A kernel for the dispatch key BackendSelect, which every call passes on any
device, hands a call to the recorder; other operators cost nothing. A `TorchDispatchMode` sees the same calls, but costs
each of the hundreds of other operators of a step 15 us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from threading import get_ident
from typing import Any

import torch
from torch.library import Library

from des_ref.recording.torch_calls import COLLECTIVES, MESSAGES

Launch = Callable[[str, Callable[[], Any], Sequence[Any]], Any]
"""A recorder's function for a call. It gets the name of the operator, a function that runs it, and its arguments, and
returns what that function returns."""


@contextmanager
def intercepted(launch: Launch) -> Iterator[None]:
    """Hand `launch` the calls of this thread, and those of threads that intercept nothing themselves.

    Among the latter are the threads in which autograd runs the backward pass of a GPU.
    """
    _, by_thread = _intercepting()
    by_thread[get_ident()] = launch
    try:
        yield
    finally:
        del by_thread[get_ident()]


@cache
def _intercepting() -> tuple[Library, dict[int, Launch]]:
    """The kernels, which stay registered as long as the process lives, and the `launch` of each thread that has one."""
    library = Library("c10d", "IMPL")
    by_thread = dict[int, Launch]()
    for name in (*COLLECTIVES, *sorted(MESSAGES)):
        library.impl(name, partial(_run, name, by_thread), "BackendSelect", with_keyset=True)
    return library, by_thread


def _run(name: str, by_thread: dict[int, Launch], keys: Any, *args: Any) -> Any:
    """Run operator `name`; `keys` are the dispatch keys of the call."""
    operator = getattr(torch.ops.c10d, name).default
    rest = keys & torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)
    run = partial(operator.redispatch, rest, *args)
    launch = by_thread.get(get_ident()) or next(iter(list(by_thread.values())), None)
    return run() if launch is None else launch(name, run, args)
