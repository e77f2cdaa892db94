"""A time limit for calls of torch that may wait for ever."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
_TO_REPORT_S = 2.0  # more, so that a store that times out by itself can report why


def within(timeout: float, work: Callable[[], T], problem: str = "no answer") -> T:
    """The result of `work`. Raises TimeoutError(`problem`) after `timeout` seconds, and what `work` raises itself.

    torch waits for ever for its store if another program listens at the store's port, or if the network is lost while
    a group starts. The waiting thread cannot be stopped, so the process must end by `dessim.processes.leave`.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, daemon=True).start()
    if not wait([done], timeout + _TO_REPORT_S).done:
        raise TimeoutError(problem)
    return done.result()
