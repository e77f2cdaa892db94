"""Ranks that start at once: forked from one process that has imported their program, which for torch takes seconds.

That process (`serve`) reads one JSON object per rank from stdin, a line each. It prints "ready" after its imports,
the process id of each rank that it forks, and, after the end of stdin, the id and exit code of each rank that ends.
Torch and the trainer start no thread when they are imported, so forking is safe. Ranks die with that process.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dessim.errors import LabError
from dessim.lab.iproute import NETNS
from dessim.lab.priority import raise_own

_POLL_S = 0.02
_CLONE_NEWNET = 0x40000000  # of setns(2); Python has it from 3.12 on
_PR_SET_PDEATHSIG = 1  # of prctl(2)


@dataclass(frozen=True, slots=True)
class Program:
    """`python -m module arguments`, run ahead of other work on this machine (dessim.lab.priority).

    `imports` are modules that its ranks would import later. Unlike under `ip netns exec`, /sys shows the devices of the
    machine, not those of the rank's namespace.
    """

    module: str
    arguments: Sequence[str] = ()
    imports: Sequence[str] = ()


class Forks:
    """The process that ranks of a program are forked from. As a context manager it and all ranks end with the block."""

    def __init__(self, program: Program, env: Mapping[str, str]) -> None:
        """`env` is added to this process's environment. It must hold what libraries read when they are imported."""
        self._program = program
        self._codes: dict[int, int] = {}
        self._unread = b""
        # Without its stderr: a module that cannot be imported fails again in each rank, which logs the reason.
        self._server = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()", program.module, *program.imports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **env},
            start_new_session=True,
        )
        assert self._server.stdin is not None and self._server.stdout is not None
        self._requests = self._server.stdin
        self._answers = self._server.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.kill()
        self._server.wait()
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def wait_until_ready(self) -> None:
        """Wait until the program is imported. Raises LabError if the process has ended."""
        self._answer()

    def start(self, space: str, env: Mapping[str, str], log: Path) -> Fork:
        """Fork a rank in namespace `space`, with `env` added to its environment and its output in `log`.

        No rank can start after `poll` or `wait` of another one was called. Raises LabError if the process has ended.
        """
        request = {"space": space, "env": dict(env), "log": str(log), "arguments": list(self._program.arguments)}
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        return Fork(self, int(self._answer()))

    def code_of(self, pid: int) -> int | None:
        """The exit code of a rank, minus the signal if it was killed; None while it runs."""
        if not self._requests.closed:
            self._requests.close()
            os.set_blocking(self._answers.fileno(), False)
        while pid not in self._codes:
            try:
                more = os.read(self._answers.fileno(), 1 << 16)
            except BlockingIOError:
                return None
            if not more:
                return -signal.SIGKILL  # with the process that it was forked from
            *lines, self._unread = (self._unread + more).split(b"\n")
            self._codes |= {int(ended): int(code) for ended, code in (line.split() for line in lines)}
        return self._codes[pid]

    def _answer(self) -> bytes:
        answer = self._answers.readline()
        if not answer:
            raise LabError(f"{self._program.module}: the process that its ranks are forked from has ended")
        return answer


@dataclass(frozen=True, slots=True)
class Fork:
    """A rank, with the attributes of subprocess.Popen that a launch needs."""

    forks: Forks
    pid: int

    def poll(self) -> int | None:
        """The exit code, minus the signal if the rank was killed; None while it runs."""
        return self.forks.code_of(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the rank; returns its exit code. Raises subprocess.TimeoutExpired after `timeout` s."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - began >= timeout:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(_POLL_S)
        return code


def serve() -> None:
    """Fork a rank for each request on stdin, and report their ends. In a rank this function runs the program."""
    module, *imports = sys.argv[1:]
    for name in (module, *imports):
        with contextlib.suppress(Exception, SystemExit):
            importlib.import_module(name)
    gc.freeze()  # a collection in a rank would copy the pages of all these objects
    _say("ready")
    # Not through sys.stdin, whose buffer ranks would inherit.
    with open(0, "rb", closefd=False) as requests:
        for request in requests:
            pid = os.fork()
            if pid == 0:
                _run(module, json.loads(request))
                return
            _say(str(pid))
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.wait()
            _say(f"{pid} {os.waitstatus_to_exitcode(status)}")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _run(module: str, request: Mapping[str, Any]) -> None:
    """Run the module as the program of this process, a rank that was just forked."""
    os.setsid()
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, request["log"], os.O_WRONLY | os.O_CREAT)):
        opened = os.open(path, flags | os.O_TRUNC, 0o666)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    with (NETNS / request["space"]).open() as space:
        _check(libc.setns(space.fileno(), _CLONE_NEWNET))
    raise_own()
    os.environ.update(request["env"])
    sys.argv = [module, *request["arguments"]]
    sys.modules.pop(module, None)  # else runpy warns that the program was imported before
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
