"""How far a run on a stream has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from des_ref.comm import Comm
from des_ref.progress import Progress
from des_ref.stream.scores import Scores


@dataclass(slots=True)
class StreamProgress(Progress):
    """`position` is where rows go on, on workers that read; None before the first. `total` and `window` are scores of
    all workers, the latter since the last report, and `own` this worker's that are in neither yet."""

    position: dict[str, Any] | None = None
    total: Scores = field(default_factory=Scores)
    window: Scores = field(default_factory=Scores)
    own: Scores = field(default_factory=Scores)

    def merge(self, comm: Comm) -> None:
        """Bring `total` and `window` up to date; every worker calls it."""
        merged = self.own.of_all(comm)
        self.total.merge(merged)
        self.window.merge(merged)
        self.own = Scores()

    def to_json(self) -> dict[str, Any]:
        stream = {"position": self.position, "total": self.total.to_json(), "window": self.window.to_json()}
        return Progress.to_json(self) | {"stream": stream}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        progress, stream = Progress.from_json(saved), saved["stream"]
        scores = {name: Scores.from_json(stream[name]) for name in ("total", "window")}
        steps = {"steps": progress.steps, "steps_before": progress.steps, "loss": progress.loss}
        return cls(**steps, position=stream["position"], **scores)
