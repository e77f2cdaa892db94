"""Where the claim holds that synchronous training reaches a higher AUC: at equal samples, and in equal time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SYNC, ASYNC = "sync", "async"
SYNCHRONOUS = ("des_all_reduce", "ps_sync")
SERVERS = "ps_async"
HOLDS, OPEN, FAILS = "holds", "open", "fails"

Row = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curves:
    """The trainings of one split, optimizer, mode and number of workers: AUCs [rates, seeds, points]."""

    rates: tuple[float, ...]
    epochs: Floats
    validation: Floats
    test: Floats

    def best(self, until: float | None = None) -> tuple[float, Floats]:
        """The rate whose best validation AUC is the highest in the mean over seeds, and the test AUCs [seeds] there.

        `until` leaves out the points after later epochs, except the first point.
        """
        n = len(self.epochs) if until is None else max(1, int((self.epochs <= until * (1 + 1e-9)).sum()))
        found = self.validation[:, :, :n]
        rate = int(found.max(axis=2).mean(axis=1).argmax())
        at = found[rate].argmax(axis=1)
        return self.rates[rate], self.test[rate, np.arange(len(at)), at]

    def curve(self, rate: float) -> Floats:
        """Test AUC [seeds, points], at each point that of the best validation AUC so far."""
        r = self.rates.index(rate)
        validation = self.validation[r]
        at = np.array([[int(seed[: n + 1].argmax()) for n in range(len(seed))] for seed in validation])
        return np.take_along_axis(self.test[r], at, axis=1)

    def epochs_to(self, target: float) -> tuple[float, Floats] | None:
        """The rate that reaches the test AUC `target` first in the mean over seeds, and its epochs [seeds].

        Between two points AUC grows linearly. None: no rate reaches it with every seed.
        """
        reached = {}
        for r, rate in enumerate(self.rates):
            epochs = np.array([_first(self.epochs, seed, target) for seed in self.test[r]])
            if np.isfinite(epochs).all():
                reached[rate] = epochs
        return min(reached.items(), key=lambda item: float(item[1].mean())) if reached else None


def _first(epochs: Floats, aucs: Floats, target: float) -> float:
    above = np.flatnonzero(aucs >= target)
    if not len(above):
        return float("inf")
    k = int(above[0])
    if k == 0:
        return float(epochs[0])
    share = (target - aucs[k - 1]) / (aucs[k] - aucs[k - 1])
    return float(epochs[k - 1] + share * (epochs[k] - epochs[k - 1]))


def curves_of(
    study: Mapping[str, Any], rows: Sequence[Row], split: str, optimizer: str, mode: str, workers: int
) -> Curves:
    """The trainings of one case of curves.csv. Raises KeyError where one is missing."""
    part = study["training"]
    rates = tuple(part["rates"][optimizer])
    case = {(float(row["rate"]), int(row["seed"])): row for row in rows if _is(row, split, optimizer, mode, workers)}
    epochs = [*part["parts"], *range(1, part["epochs"] + 1)]

    def table(name: str) -> Floats:
        return np.array(
            [[[float(case[rate, seed][f"{name}_{e:g}"]) for e in epochs] for seed in part["seeds"]] for rate in rates]
        )

    return Curves(rates, np.array(epochs, dtype=float), table("validation"), table("test"))


def _is(row: Row, split: str, optimizer: str, mode: str, workers: int) -> bool:
    return (row["split"], row["optimizer"], row["mode"], int(row["workers"])) == (split, optimizer, mode, workers)


def epoch_s(study: Mapping[str, Any], times: Mapping[str, Any], strategy: str, workers: int) -> float:
    """Seconds of an epoch."""
    (row,) = (row for row in times["steps"] if row["workers"] == workers)
    return float(row["step_s"][strategy]) * times["updates"] / workers


def compare(study: Mapping[str, Any], times: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The difference in AUC, synchronous less asynchronous, for every case: at equal samples, and in equal time.

    `gap` is its mean over seeds, `half_width` half of its 95 % interval. In equal time the method that takes longer for
    all epochs stops when the other has finished. Each method trains at the rate that is best for it in that time.
    """
    part = study["training"]
    found = []
    for split in part["splits"]:
        for optimizer in part["rates"]:
            for workers in part["workers"]:
                sync, late = (curves_of(study, rows, split, optimizer, mode, workers) for mode in (SYNC, ASYNC))
                about = {"split": split, "optimizer": optimizer, "workers": workers}
                found.append({**about, "equal": "samples", **_gap(study, sync.best(), late.best())})
                for strategy in SYNCHRONOUS if workers in study["hosts"]["timed_workers"] else ():
                    ours, theirs = (epoch_s(study, times, name, workers) for name in (strategy, SERVERS))
                    seconds = part["epochs"] * min(ours, theirs)
                    best = (sync.best(seconds / ours), late.best(seconds / theirs))
                    found.append({**about, "equal": strategy, "seconds": round(seconds, 3), **_gap(study, *best)})
    return found


def _gap(study: Mapping[str, Any], ours: tuple[float, Floats], theirs: tuple[float, Floats]) -> dict[str, Any]:
    gaps = ours[1] - theirs[1]
    half = study["claim"]["confidence"] * float(gaps.std(ddof=1)) / len(gaps) ** 0.5
    mean = float(gaps.mean())
    is_small = abs(mean) <= max(half, study["claim"]["least_gap"])
    verdict = OPEN if is_small else HOLDS if mean > 0 else FAILS
    return {
        "sync_auc": round(float(ours[1].mean()), 4),
        "async_auc": round(float(theirs[1].mean()), 4),
        "sync_rate": ours[0],
        "async_rate": theirs[0],
        "gap": round(mean, 4),
        "half_width": round(half, 4),
        "claim": verdict,
    }
