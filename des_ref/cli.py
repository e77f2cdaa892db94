"""Shared by the trainer's programs: argument types, progress lines, and how a program reports an error and exits.

A user's mistake becomes one line on stderr and the exit code that dessim.errors gives it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dessim.errors import DessimError, UsageError, one_line
from dessim.files import Outputs
from dessim.processes import INTERRUPTED, Ending, drop_stdout, prepare_streams, refusal


class RankError(DessimError):
    """A problem that only one process knows of; that process reports it, whatever its rank. `rank` is its own."""

    def __init__(self, rank: int, problem: str, exit_code: int = 1) -> None:
        self.rank = rank
        self.exit_code = exit_code
        super().__init__(f"rank {rank}: {problem}")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError for a mistake, instead of printing the usage and exiting.

    Mistakes include two options of type `output_file` that name the same file.
    """

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        parsed, rest = super().parse_known_args(args, namespace)
        outputs = Outputs()
        for action in self._actions:
            if action.type is output_file and (file := getattr(parsed, action.dest)) is not None:
                outputs.add("/".join(action.option_strings), file)
        return parsed, rest


def add_allow_code(parser: argparse.ArgumentParser) -> None:
    """Add the option without which a model file's own code is not run (des_ref.substitution.head)."""
    parser.add_argument(
        "--allow-code", action="store_true", help='import and run the module that a model file\'s "head" names'
    )


def positive(text: str) -> int:
    """The argument type of a whole number above 0."""
    return _whole(text, minimum=1, range_in_words="above 0")


def natural(text: str) -> int:
    """The argument type of a whole number of 0 or more."""
    return _whole(text, minimum=0, range_in_words="of 0 or more")


def _whole(text: str, minimum: int, range_in_words: str) -> int:
    value = int(text) if text.isdecimal() else -1
    if value < minimum:
        raise argparse.ArgumentTypeError(f"must be a whole number {range_in_words}, not {text!r}")
    return value


def output_file(text: str) -> Path:
    """The argument type of a file to write. Creates its folder, so that problems show before the work."""
    path = Path(not_empty(text))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path.parent}: {error.strerror}") from None
    return path


def output_folder(text: str) -> Path:
    """The argument type of a folder to write into."""
    path = Path(not_empty(text))
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: is a file; name a folder")
    return path


def not_empty(text: str) -> str:
    """The argument type of a name, which must not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def say(text: str) -> None:
    """Print a line of progress for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def run(program: str, main: Callable[[], int]) -> int:
    """Call `main` and return its exit code, or print one line for an error and return the error's code.

    Every rank makes the same mistake of the user, so only the first rank of a machine prints it. Each RankError is
    printed by the rank that raised it.
    """
    prepare_streams()
    try:
        with Ending(program):
            code = main()
            sys.stdout.flush()
            return code
    except DessimError as error:
        if isinstance(error, RankError) or _is_first():
            say(f"{program}: error: {one_line(error)}")
        return error.exit_code
    except KeyboardInterrupt:
        if _is_first():
            say(f"{program}: interrupted")
        return INTERRUPTED
    except BrokenPipeError as error:
        if error.filename:  # a named pipe
            say(f"{program}: error: {refusal(error)}")
        drop_stdout()
        return 1
    except (OSError, MemoryError, RuntimeError) as error:
        # A full disk or too little memory may affect one process only, so that process reports it.
        if (line := _refusal(error)) is None:
            raise
        say(f"{program}: error: {line}")
        if isinstance(error, OSError) and not error.filename:
            drop_stdout()
        return 1


def is_rank_0() -> bool:
    """Whether this process is to be rank 0, as its launcher says, before any process group exists."""
    return os.environ.get("RANK", "0") == "0"


def _is_first() -> bool:
    """Whether this process is the first of its machine."""
    local_rank = os.environ.get("LOCAL_RANK", "0")
    return local_rank == "0" or not local_rank.isdecimal()


def _refusal(error: Exception) -> str | None:
    """One line for what the operating system or the device refused; None for a bug in the program."""
    if isinstance(error, OSError):
        return refusal(error)
    # torch reports memory that runs out as a RuntimeError of many lines.
    memory = re.search(r"(CUDA out of memory|can't allocate memory|Unable to allocate)[^\n]*", str(error))
    return f"out of memory: {memory[0]}" if memory or isinstance(error, MemoryError) else None
