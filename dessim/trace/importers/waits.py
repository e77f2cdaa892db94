"""Waits of host threads in a profile of gloo, whose collectives run on worker threads.

A profile shows a wait as a pause of the thread, and the collective as the span of a worker. The two rarely end at the
same instant: the worker hands over the result before its span ends, and is often late to run again on a busy machine,
by milliseconds. So a pause that ends near the end of a span is a wait for it. The collective then ended when the
thread resumed, at the latest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dessim.trace.schema import Kind, Op

GLOO_STREAM = "gloo"
_SHORTEST_WAIT_US = 200.0  # shorter pauses are work of the host


def with_waits(ops: Sequence[Op]) -> list[Op]:
    """A rank's `ops`, ordered by step and start, where each op that waited for a collective depends on it."""
    adjusted = list(ops)
    spans = [index for index, op in enumerate(ops) if op.kind is Kind.COLLECTIVE and op.stream == GLOO_STREAM]
    if not spans:
        return adjusted
    busy_until: dict[tuple[int, str], float] = {}
    for index, op in enumerate(ops):
        if op.kind is Kind.COLLECTIVE:
            continue
        since = busy_until.get((op.step, op.stream))
        busy_until[op.step, op.stream] = max(op.end_us, since or op.end_us)
        if since is None or op.start_us - since < _SHORTEST_WAIT_US:
            continue
        of_step = [span for span in spans if adjusted[span].step == op.step]
        running = [span for span in of_step if _awaited(adjusted[span], since, op.start_us)]
        if not running:
            continue
        nearest = min(running, key=lambda span: abs(adjusted[span].end_us - op.start_us))
        collective = adjusted[nearest]
        adjusted[nearest] = replace(collective, dur_us=min(collective.dur_us, op.start_us - collective.start_us))
        adjusted[index] = replace(op, deps=(*op.deps, collective.id))
    return adjusted


def _awaited(collective: Op, since_us: float, until_us: float) -> bool:
    """Whether a pause of a thread may be a wait for `collective`: most of the pause passed while it ran.

    It may end after the pause, but not by more than it ran during the pause.
    """
    begin = max(collective.start_us, since_us)
    ran = min(collective.end_us, until_us) - begin
    late = collective.end_us - until_us
    return ran >= _SHORTEST_WAIT_US and late <= ran and 2 * ran >= until_us - since_us
