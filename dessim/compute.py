"""Terms that plans of computation and descriptions of devices share: number formats, and kinds of memory access."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """A number format. TF32 multiplies float32 values with 10 bits of mantissa; in memory they stay float32."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"

    @property
    def bytes(self) -> int:
        """Bytes of a value."""
        return _BYTES[self]


_BYTES = {Precision.FP32: 4, Precision.TF32: 4, Precision.BF16: 2, Precision.FP16: 2, Precision.FP8: 1}


class Access(StrEnum):
    """How a kernel reads and writes memory."""

    STREAM = "stream"  # in order
    GATHER = "gather"  # copies rows from random places
    POOL = "pool"  # sums rows from random places
    SCATTER = "scatter"  # adds to rows in random places, or updates them
