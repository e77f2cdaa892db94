"""The median step: how many runs it takes, which step stands for it, and that its parts add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dessim.cluster import load_cluster
from dessim.cluster.load import load_device
from dessim.commands.project import run_projection
from dessim.commands.support.median_step import MOST_RUNS, STEPS, median_step
from dessim.commands.support.project_request import ProjectRequest
from dessim.commands.support.projection import Projection
from dessim.commands.support.step import shared_cores
from dessim.errors import ClusterError, UsageError
from dessim.results.metrics import step_windows
from dessim.sim.core.recorder import Record
from dessim.sim.engine import NetworkName, simulate
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import WORLD, RankClass, Task, Workload
from dessim.workload.model import load_model
from dessim.workload.scale import Job

BED = load_cluster("lab/switch_4")


def workload(steps: int = STEPS) -> Workload:
    """Steps of 2 ms of compute and an AllReduce of 1 KiB on each of four ranks."""
    tasks: list[Task] = []
    for step in range(steps):
        last = (len(tasks) - 1,) if tasks else ()
        tasks.append(Task("work", step, Phase.FORWARD, Kind.COMPUTE, "compute", last, duration=2e-3))
        reduce = {"collective": Collective.ALL_REDUCE, "group": WORLD, "size": 1024.0}
        tasks.append(Task("sum", step, Phase.BACKWARD, Kind.COLLECTIVE, "comm", (len(tasks) - 1,), **reduce))
    return Workload("job", 4, (RankClass(range(4), tuple(tasks)),), {WORLD: range(4)}, tuple(range(steps)))


class Runs:
    """Runs workloads and keeps the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def __call__(self, uneven: Workload, progress: Progress) -> Record:
        self.records.append(simulate(BED, uneven, network="packet", progress=progress))
        return self.records[-1]


def test_equal_compute_times_need_one_run() -> None:
    run = Runs()
    found = median_step(workload(), 0.0, run)
    assert len(run.records) == 1 and found.record is run.records[0]
    ends = [end for _, end in step_windows(found.record).values()]
    assert len(ends) == STEPS and found.seconds == pytest.approx(float(np.median(np.diff(ends))))
    assert 2e-3 < found.seconds < 10e-3


def test_runs_join_while_steps_vary_and_the_median_is_of_all() -> None:
    run = Runs()
    found = median_step(workload(), 1.0, run)
    assert 1 < len(run.records) <= MOST_RUNS
    steps = [np.diff([end for _, end in step_windows(record).values()]) for record in run.records]
    assert found.seconds == pytest.approx(float(np.median(np.concatenate(steps))))
    few = Runs()
    median_step(workload(), 1.0, few, most_runs=2)
    assert len(few.records) == 2


def test_the_parts_of_the_step_add_up_to_the_median() -> None:
    found = median_step(workload(), 1.0, Runs())
    parts = found.breakdown()
    assert parts.step_time_s == pytest.approx(found.seconds)
    assert sum(op.time_s for op in parts.critical_path) == pytest.approx(found.seconds)
    start, end = step_windows(found.record)[found.step]
    assert end - start == pytest.approx(found.seconds, rel=0.2)


def projected(network: NetworkName, variation: float = 0.0, cores: int | None = None) -> Projection:
    device = replace(load_device("cpu-core"), variation=variation, shared_cores=cores)
    (row,) = run_projection(
        ProjectRequest(
            job=Job.of_model(load_model("fm")),
            cluster=BED.with_gpu(device),
            strategies=["table_wise"],
            gpus=[4],
            batch_per_worker=16,
            network=network,
        )
    )
    assert isinstance(row, Projection)
    return row


def test_a_packet_projection_is_the_median_of_several_steps_and_a_fluid_one_is_one_step() -> None:
    fluid, packet, uneven = projected("fluid"), projected("packet"), projected("packet", variation=0.5)
    assert len(step_windows(fluid.record)) == 1 and len(step_windows(packet.record)) == STEPS
    assert projected("fluid", variation=0.5).breakdown.step_time_s == fluid.breakdown.step_time_s
    assert uneven.breakdown.step_time_s > packet.breakdown.step_time_s, "ranks wait for the slowest"


def test_ranks_that_share_cores_take_longer() -> None:
    for network in ("fluid", "packet"):
        own, four, one = (projected(network, cores=cores).breakdown.step_time_s for cores in (None, 4, 1))
        assert own <= four < one


def test_shared_cores_are_those_of_one_machine() -> None:
    device = load_device("cpu-core")
    assert shared_cores(BED, [device]) is None
    assert shared_cores(BED, [replace(device, shared_cores=2)] * 2) == 2
    with pytest.raises(UsageError, match="the same shared_cores"):
        shared_cores(BED, [device, replace(device, shared_cores=2)])


def test_a_device_file_states_shared_cores_and_variation(tmp_path: Path) -> None:
    file = tmp_path / "device.toml"
    file.write_text('[gpu]\npart = "cpu-core"\nvariation = 0.13\nshared_cores = 2\n', "utf-8")
    device, shipped = load_device(str(file)), load_device("cpu-core")
    assert (device.variation, device.shared_cores) == (0.13, 2)
    assert (shipped.variation, shipped.shared_cores) == (0.0, None)
    file.write_text('[gpu]\npart = "cpu-core"\nshared_cores = 0\n', "utf-8")
    with pytest.raises(ClusterError, match="shared_cores"):
        load_device(str(file))


@pytest.mark.parametrize("ranks", [1, 2, 6])
def test_all_ranks_together_have_the_rates_of_the_shared_cores(ranks: int) -> None:
    device = replace(load_device("cpu-core"), shared_cores=2)
    part = device.shared_by(ranks)
    share = min(1.0, 2 / ranks)
    assert part.flops == pytest.approx(share * device.flops)
    assert part.memory_bandwidth == pytest.approx(share * device.memory_bandwidth)
    assert part.launch_overhead == pytest.approx(device.launch_overhead / share)
    assert replace(device, shared_cores=None).shared_by(ranks).flops == device.flops
