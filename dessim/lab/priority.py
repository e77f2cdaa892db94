"""Ahead of whatever else this machine does, so that a measurement is one of the job."""

from __future__ import annotations

from collections.abc import Sequence

_NICE = -10
# Linux may schedule by session first (autogroups), and each rank of a run is a session of its own: there the niceness
# of a process counts only inside its session, which has its own.
_FIRST = f'{{ echo {_NICE} > /proc/self/autogroup; }} 2>/dev/null; exec nice -n {_NICE} "$@"'


def first(command: Sequence[str]) -> list[str]:
    """A command that runs `command` at a higher priority, where the user may have one."""
    return ["sh", "-c", _FIRST, "sh", *command]
