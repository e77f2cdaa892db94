"""Run a command ahead of other work on this machine, so that other work does not disturb a measurement."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

_NICE = -10
# Linux may divide the CPU between sessions first (autogroups), and each rank of a run has its own session. The niceness
# of a process then counts only within its session; the session's own niceness counts between sessions.
_WITH_PRIORITY = f'{{ echo {_NICE} > /proc/self/autogroup; }} 2>/dev/null; exec nice -n {_NICE} "$@"'


def first(command: Sequence[str]) -> list[str]:
    """A command that runs `command` at a higher priority, if the user is allowed to raise it."""
    return ["sh", "-c", _WITH_PRIORITY, "sh", *command]


def raise_own() -> None:
    """Do the same for this process and its session."""
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICE))
    with contextlib.suppress(OSError):
        os.nice(_NICE)
