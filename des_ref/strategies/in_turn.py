"""Parts of a step that wait for messages, as generators: each yields a message's handle where it needs its result.

A strategy alone waits at once. Several strategies in one step (composed.py) take turns, so that one computes while the
messages of others travel.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

from des_ref.comm import Handle

T = TypeVar("T")
Part = Generator[Handle, None, T]
"""Yields the handle of each message that it waits for, and returns its result."""


def run_alone(part: Part[T]) -> T:
    """The result of a part that shares the step with no other: it waits for each message at once."""
    return in_turn([part])[0]


def in_turn(parts: Sequence[Part[T]]) -> list[T]:
    """The results of parts. Each computes up to its next message, in order; then the first waits for its own."""
    results: dict[int, T] = {}
    waiting: list[tuple[int, Handle | None]] = [(number, None) for number in range(len(parts))]
    while waiting:
        still = []
        for number, handle in waiting:
            if handle is not None:
                handle.wait()
            try:
                still.append((number, next(parts[number])))
            except StopIteration as end:
                results[number] = end.value
        waiting = still
    return [results[number] for number in range(len(parts))]
