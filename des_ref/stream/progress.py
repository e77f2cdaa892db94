"""The progress of a run on a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from des_ref.comm import Comm
from des_ref.progress import Progress
from des_ref.stream.scores import Scores


@dataclass(slots=True)
class StreamProgress(Progress):
    """Progress, with the position of the stream and the scores so far.

    position  where the next row is; None before the first batch, and on workers that do not read
    total     scores of all workers
    window    scores of all workers since the last report
    own       this worker's scores that are not in `total` and `window` yet
    """

    position: dict[str, Any] | None = None
    total: Scores = field(default_factory=Scores)
    window: Scores = field(default_factory=Scores)
    own: Scores = field(default_factory=Scores)

    def merge(self, comm: Comm) -> None:
        """Add every worker's `own` scores to `total` and `window`. Every worker calls it."""
        merged = self.own.summed(comm)
        self.total.merge(merged)
        self.window.merge(merged)
        self.own = Scores()

    def to_json(self) -> dict[str, Any]:
        stream = {"position": self.position, "total": self.total.to_json(), "window": self.window.to_json()}
        return Progress.to_json(self) | {"stream": stream}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        progress = Progress.from_json(saved)
        stream = saved["stream"]
        return cls(
            steps=progress.steps,
            steps_before=progress.steps,
            loss=progress.loss,
            position=stream["position"],
            total=Scores.from_json(stream["total"]),
            window=Scores.from_json(stream["window"]),
        )
