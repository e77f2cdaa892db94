"""Simulates cases on a Dask cluster (dask.distributed).

A task is pure: it gets cases of one cluster and returns their outcomes, so Dask may run it again when a worker ends. A
task returns after some seconds with what it has done, and the rest is sent again; so little is lost with a worker.
Inputs are read where the task runs, under the same paths, and must have the content that the sweep began with.
"""

from __future__ import annotations

import itertools
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from dessim.errors import DessimError, UsageError, one_line
from dessim.sweep.axes import Plain
from dessim.sweep.cases import Case, cluster_key
from dessim.sweep.content import code_version, digest
from dessim.sweep.journal import Outcome
from dessim.sweep.simulate import Simulator, failure

_TASK_S = 5.0
_MOST_CASES = 64
_AHEAD = 2  # tasks for each thread, so that none waits for the next
_CONNECT_S = 10.0
_ADDRESS = re.compile(r"((tcp|tls|ws|wss|ucx)://)?(?P<host>\[[0-9a-f:]+\]|[^\s/:]+):(?P<port>\d{1,5})")
_Sent = tuple[str, Mapping[str, Plain]]


def on_dask(cases: Sequence[Case], address: str) -> Generator[tuple[str, Outcome]]:
    """The outcomes of cases, by key, as they arrive from the workers of the scheduler at `address`.

    Raises UsageError if dask is missing, or no scheduler with workers answers; DessimError for a worker with another
    dessim.
    """
    _require_answer(address)
    try:
        from distributed import Client
        from distributed import as_completed as arriving
    except ImportError:
        raise UsageError("--dask needs dask.distributed: pip install 'dessim[sweep]'") from None
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"--dask {address}: no scheduler answers: {one_line(error)}") from None
    with client:
        threads = _threads(client, address)
        waiting = _chunks(cases, threads)
        attempts = itertools.count()
        stream = arriving(loop=client.loop)
        sent: dict[str, list[Case]] = {}

        def submit() -> None:
            while waiting and len(sent) < _AHEAD * threads:
                chunk = waiting.popleft()
                name = f"dessim-{next(attempts)}-{digest([case.key for case in chunk])}"
                sent[name] = chunk
                arguments = [(case.key, dict(case.settings)) for case in chunk]
                stream.add(client.submit(simulate_cases, arguments, key=name, pure=False))

        submit()
        while sent:
            future = next(stream)
            chunk = sent.pop(future.key)
            if future.status == "finished":
                outcomes = dict(future.result())
                left = [case for case in chunk if case.key not in outcomes]
                if left:
                    waiting.appendleft(left)
            elif future.status != "error":
                raise DessimError(f"--dask {address}: the scheduler has gone; run the same command again to continue")
            elif len(chunk) > 1:  # which case ended its workers is not known
                outcomes = {}
                waiting.extendleft([case] for case in reversed(chunk))
            else:
                cause = future.exception()
                outcomes = {chunk[0].key: failure(f"{type(cause).__name__}: {cause}")}
            future.release()
            submit()
            yield from outcomes.items()


def _require_answer(address: str) -> None:
    """Raise UsageError unless something listens at an address: a client that cannot connect ends late and noisily."""
    match = _ADDRESS.fullmatch(address)
    if match is None and not address.startswith("inproc://"):
        raise UsageError(f"--dask {address!r}: write the address of a scheduler, such as tcp://head:8786")
    if match is not None:
        try:
            socket.create_connection((match["host"].strip("[]"), int(match["port"])), _CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise UsageError(f"--dask {address}: no scheduler answers: {one_line(error)}") from None


def simulate_cases(sent: Sequence[_Sent]) -> list[tuple[str, Outcome]]:
    """The task: the outcomes of the first of these cases, as many as some seconds allow, and one at least."""
    began = time.monotonic()
    simulator = _simulator(threading.get_ident())
    done: list[tuple[str, Outcome]] = []
    for key, settings in sent:
        done.append((key, simulator.outcome(Case(key, settings))))
        if time.monotonic() - began > _TASK_S:
            break
    return done


@lru_cache(maxsize=256)
def _simulator(thread: int) -> Simulator:
    """The simulator of a thread of a worker, which keeps clusters and routes from one task to the next."""
    return Simulator()


def _threads(client: Any, address: str) -> int:
    """The number of threads of all workers, which must run this dessim."""
    threads = client.nthreads()
    if not threads:
        raise UsageError(f"--dask {address}: the scheduler has no workers; start some: dask worker {address}")
    try:
        versions = client.run(code_version)
    except Exception as error:
        line = one_line(error)
        raise DessimError(
            f"--dask {address}: a worker cannot run dessim: {line}; install the same everywhere"
        ) from None
    for worker, theirs in versions.items():
        if theirs != code_version():
            raise DessimError(
                f"worker {worker} runs dessim {theirs}, not {code_version()}; install the same everywhere"
            )
    return sum(threads.values())


def _chunks(cases: Sequence[Case], threads: int) -> deque[list[Case]]:
    """The cases in tasks: each of one cluster, at least four for each thread."""
    size = min(max(len(cases) // (4 * threads), 1), _MOST_CASES)
    chunks: deque[list[Case]] = deque()
    for _, of_cluster in itertools.groupby(cases, key=lambda case: cluster_key(case.settings)):
        listed = list(of_cluster)
        chunks.extend(listed[i : i + size] for i in range(0, len(listed), size))
    return chunks
