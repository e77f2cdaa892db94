"""The parts of a call that its time covers: they depend on how it is measured."""

from __future__ import annotations

from enum import StrEnum


class Timing(StrEnum):
    """The part of a call of NCCL that its time covers.

    ALONE: one call in a step, from the host's call until the last GPU has finished. REPEATED: the mean over many
    back-to-back calls, as in nccl-tests. KERNEL: from the start of the last rank's kernel to the end of the last
    kernel, as profilers record it, without the launch.
    """

    ALONE = "alone"
    REPEATED = "repeated"
    KERNEL = "kernel"
