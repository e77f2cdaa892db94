"""One collective: what `collective` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dessim.results.flat.view import Values, View, frame, interval

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveResult(View):
    """A collective on an idle cluster, with the columns of nccl-tests.

    `size_bytes` is S; `algbw_GBps` is S / time, `busbw_GBps` comparable with the rate of a link, both in 1e9 bytes/s.
    `low_s` and `high_s` are the ends of the 80 % interval, None where the spread is not known. `error_bound`: the
    relative error that a tolerance allowed.
    """

    cluster: str
    op: str
    gpus: int
    size_bytes: int
    algorithm: str
    time_s: float
    low_s: float | None
    high_s: float | None
    algbw_GBps: float
    busbw_GBps: float
    bound_by: str
    error_bound: float

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        return interval(values)

    def to_frame(self) -> pd.DataFrame:
        """One line."""
        return frame([self._cells()])
