"""A limit on the time of calls that torch lets wait for ever."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
_TO_REPORT_S = 2.0  # for a store that times out by itself to say why


def within(timeout: float, work: Callable[[], T], problem: str = "no answer") -> T:
    """The result of `work`. Raises TimeoutError(`problem`) after `timeout` seconds, and what `work` raises itself.

    torch waits for ever for an answer of its store: where another program listens at the store's port, and where the
    network is lost while a group starts. The thread that waits is left behind, so the process must end by
    `dessim.processes.leave`.
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
