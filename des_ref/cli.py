"""How the trainer's programs end: one line for a user's mistake, and the exit code that dessim.errors gives it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from dessim.errors import DessimError, UsageError

INTERRUPTED = 130


class RankError(DessimError):
    """What one process of a run knows and the others need not: whoever it is, it says so. `rank` is its own."""

    def __init__(self, rank: int, problem: str, exit_code: int = 1) -> None:
        self.rank, self.exit_code = rank, exit_code
        super().__init__(f"rank {rank}: {problem}")


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake raises UsageError instead of printing the usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def positive(text: str) -> int:
    """A flag's value that must be a whole number above 0."""
    return _whole(text, 1, "above 0")


def natural(text: str) -> int:
    """A flag's value that must be a whole number of 0 or more."""
    return _whole(text, 0, "of 0 or more")


def _whole(text: str, least: int, what: str) -> int:
    value = int(text) if text.isdecimal() else -1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be a whole number {what}, not {text!r}")
    return value


def output_file(text: str) -> Path:
    """A flag's file that is written when all is done: what would be in the way then is said before anything starts."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path.parent}: {error.strerror}") from None
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: is a folder; name a file")
    return path


def say(text: str) -> None:
    """Progress, for people: stderr."""
    print(text, file=sys.stderr, flush=True)


def leave(code: int) -> NoReturn:
    """End this process now, without taking the interpreter down first.

    Threads of torch's process group may still ask for the interpreter then, and abort a process whose work is done
    ("terminate called without an active exception"); its launcher would call the whole run failed.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(program: str, main: Callable[[], int]) -> int:
    """The exit code of `main`. Mistakes of the user become one line; every rank makes the same, so one rank says it.

    A RankError is said by each that has one.
    """
    try:
        return main()
    except DessimError as error:
        if isinstance(error, RankError) or _is_first():
            say(f"{program}: error: {' '.join(str(error).split())}")
        return error.exit_code
    except KeyboardInterrupt:
        if _is_first():
            say(f"{program}: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader left (`| head`); point stdout elsewhere so that the interpreter's last flush does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError, RuntimeError) as error:
        # Of one process, which nobody else can speak for: a full disk, no memory left.
        if (line := _of_the_machine(error)) is None:
            raise
        say(f"{program}: error: {line}")
        return 1


def _is_first() -> bool:
    """Whether this process is the first of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _of_the_machine(error: Exception) -> str | None:
    """A line for what the machine refuses; None for what is a mistake of the program."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    # torch says so in a RuntimeError, with many lines about where it was.
    memory = re.search(r"(CUDA out of memory|can't allocate memory|Unable to allocate)[^\n]*", str(error))
    return f"out of memory: {memory[0]}" if memory or isinstance(error, MemoryError) else None
