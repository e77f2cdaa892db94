"""How a program of dessim begins and ends: its streams, its signals, and what it says when the system refuses.

Both command lines, dessim and des_ref, use it.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from types import FrameType
from typing import NoReturn, Self

from dessim.errors import one_line

INTERRUPTED = 130
"""The exit code after Ctrl-C, and after SIGTERM."""
_GRACE_S = 2.0
_LATE_S = 1.0  # by which the thread may hear of a signal after the main thread has handled it
_ENDING = (signal.SIGINT, signal.SIGTERM)


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable: open, and able to print any character in any locale.

    A closed descriptor would be given to the next file that is opened, which prints would then overwrite.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            handle = os.open(os.devnull, mode)  # the lowest free descriptor, so this one
            if handle != descriptor:
                os.dup2(handle, descriptor)
            os.set_inheritable(descriptor, True)  # as a standard stream is; os.open makes none
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")


def drop_stdout() -> None:
    """Send the rest of stdout nowhere: its reader has exited (`| head`), or its disk is full.

    Without this, Python would report the error again when it flushes stdout at exit.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def refusal(error: BaseException) -> str:
    """One line for what the operating system refused: a file, or memory."""
    if isinstance(error, OSError):
        return one_line(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error)
    return one_line(f"out of memory: {error}" if str(error) else "out of memory")


def leave(code: int) -> NoReturn:
    """Exit this process now, without finalising the interpreter.

    Threads of torch's process group may still need the interpreter while it is finalised, and then abort a process
    whose work is done ("terminate called without an active exception"); its launcher would report a failed run. And
    Python may kill a process whose code has caught a KeyboardInterrupt with SIGINT as it ends.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class Ending:
    """While entered, SIGTERM raises KeyboardInterrupt as Ctrl-C does, and a process that does not react is ended.

    Python handles a signal only between two of its own instructions, so a wait inside a library, such as that for a
    silent worker, would go on: after two seconds the process exits with INTERRUPTED. An ignored SIGINT, as in a
    background job of a shell, stays ignored. Only the main thread handles signals; in another one nothing changes.
    `who` begins the line that is printed. A handler that takes this one's place calls `noticed`.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._noticed_at = -math.inf
        self._handlers: dict[int, signal._HANDLER] = {}
        self._alarm = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _ENDING:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:
                self._handlers[number] = handler
                signal.signal(number, self)
        wakeup, self._alarm = os.pipe()
        os.set_blocking(self._alarm, False)
        self._previous = signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(wakeup,), name="signals", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._alarm >= 0:
            signal.set_wakeup_fd(self._previous)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            os.close(self._alarm)  # which ends the thread

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.notice()
        raise KeyboardInterrupt

    def notice(self) -> None:
        """The process reacts to a signal."""
        self._noticed_at = time.monotonic()

    def _watch(self, wakeup: int) -> None:
        while got := os.read(wakeup, 1):
            arrived_at = time.monotonic() - _LATE_S
            time.sleep(_GRACE_S if got[0] in _ENDING else 0)
            is_ours = got[0] in _ENDING and self is signal.getsignal(got[0])
            if is_ours and self._noticed_at < arrived_at:
                with contextlib.suppress(OSError):
                    os.write(2, f"{self._who}: interrupted\n".encode())
                os._exit(INTERRUPTED)
        os.close(wakeup)


def noticed(replaced: Iterable[object]) -> None:
    """Tell each Ending among handlers that another one has replaced that the process reacts to a signal."""
    for handler in replaced:
        if isinstance(handler, Ending):
            handler.notice()


def _no_wakeup() -> None:
    """A forked process would write its signals into the pipe of the process that it comes from."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_no_wakeup)
