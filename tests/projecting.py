"""Projections with few words: the rows of the request that some arguments make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dessim.cluster import Cluster
from dessim.commands.project import Row, run_projection
from dessim.commands.support.project_request import ProjectRequest
from dessim.sim.progress import Progress
from dessim.workload.scale import Job


def project(
    job: Job,
    cluster: Cluster,
    strategies: Sequence[str],
    gpus: Sequence[int],
    batch_per_worker: int | None = None,
    *,
    progress: Progress | None = None,
    on_row: Callable[[Row], None] | None = None,
    **options: Any,
) -> list[Row]:
    """Project a job; `options` are the other fields of `ProjectRequest`."""
    request = ProjectRequest(
        job=job, cluster=cluster, strategies=strategies, gpus=gpus, batch_per_worker=batch_per_worker, **options
    )
    return run_projection(request, progress, on_row)
