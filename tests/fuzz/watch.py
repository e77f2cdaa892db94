"""Runs one input and judges how it ends: read, refused in one line, or a finding."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from dessim.errors import DessimError, OutOfTime, is_printable, one_line

LIMIT_S = 10
MEMORY = 2 << 30
_LONGEST_LINE = 3000
READ, REFUSED = "read", "refused"


class Hang(BaseException):
    """An input took more than LIMIT_S of CPU time."""


class Verdict(NamedTuple):
    """How an input ended: `kind` is READ, REFUSED, or the class of a finding; `where` is the code that failed."""

    kind: str
    where: str = ""
    detail: str = ""

    @property
    def is_finding(self) -> bool:
        return self.kind not in (READ, REFUSED)


def limit_memory(more: int = MEMORY) -> None:
    """Let this process allocate `more` bytes beyond what its imports have mapped."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, hard))


def judge(work: Callable[[], object]) -> Verdict:
    """Do the work of one input. Only errors that a command prints as one line may come out of it, within LIMIT_S."""

    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, on_alarm)
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)  # of CPU time, because other programs may keep the machine busy
    try:
        work()
        verdict = Verdict(READ)
    except OutOfTime:
        verdict = Verdict(READ)  # what is simulated may take longer than the fuzzer allows
    except DessimError as error:
        verdict = _of_message(error)
    except OSError as error:
        verdict = Verdict(REFUSED) if error.strerror or error.filename else _finding("OSError", error)
    except Hang as error:
        verdict = _finding("Hang", error)
    except Exception as error:
        verdict = _finding(type(error).__name__, error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    took = time.process_time() - started
    if took > LIMIT_S and not verdict.is_finding:
        return Verdict("Hang", "after the alarm", f"{took:.0f} s")
    return verdict


def _of_message(error: DessimError) -> Verdict:
    text = one_line(error)
    if type(error).__name__ == "PhysicsError":
        return _finding("PhysicsError", error)
    if len(text) > _LONGEST_LINE or not text.strip():
        return _finding("a message of too many letters or of none", error)
    if not is_printable(text):
        return _finding("a message with control characters", error)
    return Verdict(REFUSED)


def _finding(kind: str, error: BaseException) -> Verdict:
    """The innermost line of dessim or des_ref names a finding."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/dessim/" in f.filename or "/des_ref/" in f.filename]
    at = own[-1] if own else frames[-1] if frames else None
    where = f"{Path(at.filename).parent.name}/{Path(at.filename).name}:{at.name}" if at else "?"
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-6))
    return Verdict(kind, where, text[-3000:])
