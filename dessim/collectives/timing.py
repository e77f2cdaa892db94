"""The parts of a call that its time covers, which depend on who measures."""

from __future__ import annotations

from enum import StrEnum


class Timing(StrEnum):
    """The part of a call of NCCL that its time covers.

    ALONE: one call in a step, from the host's call to the last GPU's end. REPEATED: one of many calls that follow each
    other, as nccl-tests divides their time. KERNEL: from the start of the last rank's kernel to the end of the last
    kernel, as profilers record it; the launch happened before.
    """

    ALONE = "alone"
    REPEATED = "repeated"
    KERNEL = "kernel"
