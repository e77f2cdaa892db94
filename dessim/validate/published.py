"""Predictions of published nccl-tests readings with the transports that ship: `dessim validate --published`.

The shipped transports were fitted to the same readings, without what is peculiar to one cluster. How well they predict
a cluster that was left out is on the page docs/nccl.md. Bounds are those of the folder's bounds.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dessim.calibrate.nccl.fit import model_run
from dessim.calibrate.nccl.published import Published, read_published
from dessim.cluster.spread import BAND_NAMES, band
from dessim.collectives.nccl.on_cluster import values_on
from dessim.errors import FileError
from dessim.files import read_toml
from dessim.validate.outcome import Bounds, Outcome, Summary, summarize

SPLIT = "calibration"


@dataclass(frozen=True, slots=True)
class PredictedReading:
    """A published reading and its prediction. `algorithm`: the choice of NCCL's tuner, with its protocol."""

    published: Published
    algorithm: str
    outcome: Outcome

    @property
    def op(self) -> str:
        return str(self.published.reading.op)

    @property
    def size_band(self) -> str:
        """The band of its size."""
        return BAND_NAMES[band(self.published.reading.size)]

    @property
    def cluster(self) -> str:
        return self.published.reading.where

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        reading = self.published.reading
        return {
            **self.outcome.to_json(),
            "cluster": self.cluster,
            "op": self.op,
            "gpus": reading.setup.n,
            "nodes": reading.setup.nodes,
            "size_bytes": reading.size,
            "algorithm": self.algorithm,
        }


def default_folder() -> Path:
    """studies/published of a checkout. Raises FileError where dessim was installed without it."""
    folder = Path(__file__).resolve().parents[2] / "studies" / "published"
    if not folder.is_dir():
        raise FileError(folder, "", "the published readings are not installed; run from a checkout of the repository")
    return folder


def predict_readings(folder: Path) -> list[PredictedReading]:
    """Predict every reading of a folder that is not marked suspect. Raises FileError, ClusterError."""
    return [_predicted(published) for published in read_published(folder) if not published.suspect]


def errors_by(
    readings: Sequence[PredictedReading], key: Callable[[PredictedReading], str]
) -> dict[tuple[str, str], list[float]]:
    """The errors of each key and band of sizes, both in order."""
    errors: dict[tuple[str, str], list[float]] = {}
    for one in sorted(readings, key=lambda one: (key(one), BAND_NAMES.index(one.size_band))):
        errors.setdefault((key(one), one.size_band), []).append(one.outcome.error)
    return errors


def summaries_by_band(readings: Sequence[PredictedReading]) -> dict[str, Summary]:
    """Median and 95th percentile of the errors in each band."""
    summaries = {name: summarize([one.outcome for one in readings if one.size_band == name]) for name in BAND_NAMES}
    return {name: summary for name, summary in summaries.items() if summary is not None}


def broken(readings: Sequence[PredictedReading], folder: Path) -> list[str]:
    """A sentence for each bound of the folder's bounds.toml that the readings exceed. Raises FileError."""
    bounds = _bounds(folder / "bounds.toml")
    sentences = []
    for name, summary in summaries_by_band(readings).items():
        allowed = bounds[name]
        if not summary.median_error <= allowed.median_error:
            sentences.append(f"{name}: median error {summary.median_error:.1%}, allowed {allowed.median_error:.0%}")
        if not summary.p95_error <= allowed.p95_error:
            sentences.append(f"{name}: 95th percentile {summary.p95_error:.1%}, allowed {allowed.p95_error:.0%}")
    return sentences


def _predicted(published: Published) -> PredictedReading:
    reading = published.reading
    setup = reading.setup
    predicted = model_run(reading, values_on(published.cluster, setup))
    known = published.cluster.transport.spread_of(
        str(reading.op), reading.size, gpus=setup.n, servers=setup.nodes, gpus_per_process=setup.gpus_per_process
    )
    outcome = Outcome(
        name=f"{reading.where} {reading.setup.n} {reading.op} {reading.size:.0f}",
        kind=BAND_NAMES[band(reading.size)],
        split=SPLIT,
        predicted_s=predicted.microseconds * 1e-6,
        measured_s=reading.microseconds * 1e-6,
        spread=None if known is None else known[1],
    )
    return PredictedReading(published, predicted.name, outcome)


def _bounds(path: Path) -> dict[str, Bounds]:
    tables = read_toml(path)
    try:
        return {name: Bounds(**tables["bounds"][name]) for name in BAND_NAMES}
    except (KeyError, TypeError) as error:
        raise FileError(
            path, "", f"needs [bounds.{BAND_NAMES[0]!r}] and so on, each with median_error and p95_error"
        ) from error
