"""A question as it was asked, with all that is needed to ask it again: a projection, or a replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dessim.cluster import Cluster
from dessim.commands.questions.arguments import ProjectArguments, ReplayArguments
from dessim.commands.questions.what_if import project_rows, replay_object
from dessim.commands.support.inputs import NamedCluster, NamedJob
from dessim.sim.progress import Progress
from dessim.trace.io import Trace
from dessim.workload.scale import Job

Arguments = ProjectArguments | ReplayArguments


@dataclass(frozen=True, slots=True)
class NamedQuestion:
    """A question that names its job and its cluster, so that it can be written to a file."""

    job: NamedJob
    cluster: NamedCluster
    arguments: Arguments

    def load(self) -> Question:
        """The question about the job and the cluster as their files are now. Raises what these loads raise."""
        if isinstance(self.arguments, ProjectArguments):
            self.arguments.check()
            return Question(self.job.load(), self.cluster.load(), self.arguments, self)
        return Question(self.job.load_trace(), self.cluster.load(), self.arguments, self)


@dataclass(frozen=True, slots=True)
class Question:
    """A question. Its job is a trace for a replay. `named`: the same by names; None where objects were given."""

    job: Job | Trace
    cluster: Cluster
    arguments: Arguments
    named: NamedQuestion | None = None

    def answer(
        self, progress: Progress | None = None, on_row: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """The object of `--json`. `on_row` receives each row of a projection as soon as it is ready.

        Raises UsageError, CapacityError, SimulationError and OutOfTime.
        """
        if isinstance(self.arguments, ProjectArguments):
            assert isinstance(self.job, Job)
            request = self.arguments.request(self.job, self.cluster)
            changes = self.arguments.changes(self.cluster)
            rows = project_rows(request, changes, progress, on_row)[1]
            return {"cluster": self.cluster.name, "model": self.job.model.name, "projection": rows}
        assert isinstance(self.job, Trace)
        changes = self.arguments.changes(self.cluster)
        return replay_object(self.arguments.request(self.job, self.cluster), changes, progress)[1]
