"""One pass over a log: counts, fit, and the check on the half that was not fitted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dessim.errors import FileError
from dessim.workload.id_logs.blocks import MIN_BLOCKS, SMALLEST_BATCH, blocks, half_of
from dessim.workload.id_logs.columns import Column
from dessim.workload.id_logs.count import Tally, batch_sizes
from dessim.workload.id_logs.fit import fit_law
from dessim.workload.ids import ZipfLaw


@dataclass(frozen=True, slots=True)
class BatchCheck:
    """Mean different ids of the batches of `batch` samples: in the fitted half, in the other half, and predicted."""

    batch: int
    fitted: float
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """The relative error of the prediction in the half that was not fitted."""
        return self.predicted / self.measured - 1

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return {
            "batch": self.batch,
            "different_fitted_half": self.fitted,
            "different_checked_half": self.measured,
            "different_predicted": self.predicted,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class MeasuredTable:
    """One table of a log: `different` ids, `ids` a sample on average, its law, and the check of the law."""

    name: str
    different: int
    is_exact: bool
    ids: float
    law: ZipfLaw
    checks: tuple[BatchCheck, ...]

    @property
    def largest_error(self) -> float:
        """The error of the batch size that is predicted worst."""
        return max((check.error for check in self.checks), key=abs)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "different_ids": self.different,
            "different_ids_exact": self.is_exact,
            "rows": int(self.law.vocabulary),
            "ids": self.ids,
            "skew": self.law.skew,
            "offset": self.law.offset,
            "shares": list(self.law.shares),
            "largest_error": self.largest_error,
            "batches": [check.to_json() for check in self.checks],
        }


@dataclass(frozen=True, slots=True)
class MeasuredLog:
    """A log: its samples, the samples of a block (see `half_of`), and its tables."""

    samples: int
    block: int
    tables: tuple[MeasuredTable, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        tables = [table.to_json() for table in self.tables]
        return {"samples": self.samples, "block_samples": self.block, "tables": tables}


def measure(names: Sequence[str], parts: Iterable[tuple[Column, ...]], source: str) -> MeasuredLog:
    """Count and fit the tables `names` of a log that comes in `parts` of any length, one column a table.

    `source` names the log in errors. Raises FileError for a log of fewer than 1,024 samples, and for a table
    without ids.
    """
    tallies: list[Tally] = []
    complete = [0, 0]  # complete blocks of each half
    samples = 0
    size = 0
    for block in blocks(parts):
        size = block.size
        tallies = tallies or [Tally.of(batch_sizes(size)) for _ in names]
        for table, tally in enumerate(tallies):
            tally.add(block, table)
        samples += block.samples
        complete[half_of(block.number)] += block.is_complete
    if size < SMALLEST_BATCH:
        raise FileError(source, "", _too_short(samples))
    for name, tally in zip(names, tallies, strict=True):
        if not tally.ids.all():
            raise FileError(source, name, "this table has no ids")
    tables = [_fitted(name, tally, samples, complete, size) for name, tally in zip(names, tallies, strict=True)]
    return MeasuredLog(samples, size, tuple(tables))


def _too_short(samples: int) -> str:
    least = MIN_BLOCKS * SMALLEST_BATCH
    return (
        f"the log has {samples:,} samples; a fit and its check need at least {least:,}"
        if samples
        else "the log has no samples"
    )


def _fitted(name: str, tally: Tally, samples: int, complete: Sequence[int], size: int) -> MeasuredTable:
    """The law and the check of one table; `complete`: the complete blocks of each half, of `size` samples."""
    batches = [blocks_found * size / tally.sizes for blocks_found in complete]
    fitted, measured = (tally.different[half] / batches[half] for half in range(2))
    draws = tally.ids[0] / (complete[0] * size) * tally.sizes
    shares = tally.shares()
    law = replace(fit_law(draws, fitted, tally.sample.different), shares=shares)
    if shares:
        law = replace(law, vocabulary=float(len(shares)))
    checks = tuple(
        BatchCheck(batch, in_fitted, in_checked, float(f"{law.unique(drawn):.6g}"))
        for batch, in_fitted, in_checked, drawn in zip(
            tally.sizes.tolist(), fitted.tolist(), measured.tolist(), draws.tolist(), strict=True
        )
    )
    ids = float(f"{tally.all_ids / samples:.6g}")
    return MeasuredTable(name, tally.sample.different, tally.sample.halvings == 0, ids, law, checks)
