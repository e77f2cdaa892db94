"""Simulates cases in processes of this machine.

A process gets one case at a time, of the cluster that it has already routed while there are any, and ends when its
pipe closes. When one is killed, as by a machine out of memory, only its case fails, and another process is started.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

from dessim.sweep.cases import Case, cluster_key
from dessim.sweep.journal import Outcome
from dessim.sweep.simulate import Simulator, failure

_END_S = 5.0


def in_processes(cases: Sequence[Case], jobs: int) -> Generator[tuple[str, Outcome]]:
    """The outcomes of cases, by key, as they arrive: simulated in `jobs` processes, or with 1 in this one."""
    if min(jobs, len(cases)) <= 1:
        simulator = Simulator()
        for case in cases:
            yield case.key, simulator.outcome(case)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    queues = _Queues(cases)
    workers = [_Worker.start(context) for _ in range(min(jobs, len(cases)))]
    try:
        for worker in workers:
            worker.send(queues.next_for(worker, workers))
        while busy := {worker.pipe: worker for worker in workers if worker.case is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]  # `wait` returns what it was given
                assert worker.case is not None
                key = worker.case.key
                outcome = worker.receive()
                if outcome is None:
                    outcome = failure(f"its process ended with exit code {worker.end()}; -9: killed, or out of memory")
                    workers.remove(worker)
                    worker = _Worker.start(context)
                    workers.append(worker)
                worker.send(queues.next_for(worker, workers))
                yield key, outcome
    finally:
        for worker in workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join(_END_S)


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, its pipe, the case that it simulates, and the cluster that it routes."""

    process: BaseProcess
    pipe: Connection
    case: Case | None = None
    cluster: tuple[str, ...] = ()

    @classmethod
    def start(cls, context: ForkServerContext) -> _Worker:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,), daemon=True)
        process.start()
        there.close()
        return cls(process, here)

    def send(self, case: Case | None) -> None:
        """Let the process simulate a case, if there is one."""
        self.case = case
        if case is not None:
            self.cluster = cluster_key(case.settings)
            with suppress(OSError):  # it has ended, which `receive` reports
                self.pipe.send(case)

    def receive(self) -> Outcome | None:
        """The outcome of the case; None if the process has ended."""
        try:
            outcome: Outcome = self.pipe.recv()
        except (EOFError, OSError):
            return None
        return outcome

    def end(self) -> int | None:
        """Wait for a process that has closed its pipe; return its exit code."""
        self.pipe.close()
        self.process.join(_END_S)
        return self.process.exitcode


class _Queues:
    """The cases that no process has begun, by cluster."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._left: dict[tuple[str, ...], deque[Case]] = {}
        for case in cases:
            self._left.setdefault(cluster_key(case.settings), deque()).append(case)

    def next_for(self, worker: _Worker, workers: Sequence[_Worker]) -> Case | None:
        """A case of the cluster of `worker`; else of one that no other has, or that has most cases left."""
        if not self._left:
            return None
        taken = [other.cluster for other in workers if other.case is not None]
        cluster = worker.cluster
        if cluster not in self._left:
            cluster = max(self._left, key=lambda key: (key not in taken, len(self._left[key])))
        queue = self._left[cluster]
        case = queue.popleft()
        if not queue:
            del self._left[cluster]
        return case


def _serve(pipe: Connection) -> None:
    """Simulate the cases that arrive until the pipe closes. Ctrl-C is for the process that sends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    simulator = Simulator()
    try:
        while True:
            pipe.send(simulator.outcome(pipe.recv()))
    except (EOFError, OSError):
        return
