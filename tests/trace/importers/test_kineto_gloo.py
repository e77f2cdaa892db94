"""Import a profile that the installed torch writes: the collectives of two gloo ranks are those that they called."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from dessim.trace.schema import Collective, Kind, Phase
from tests.forked import forked_from_everything

pytestmark = [pytest.mark.torch, pytest.mark.slow]
torch = pytest.importorskip("torch")

STEPS = 2
SENT = ((4, 8), (8, 12))  # rows of 4 floats from each rank to each


def capture(rank: int, folder: Path) -> None:
    """Train a layer with DDP and call gloo's other collectives, under the profiler."""
    import torch.distributed as dist
    from torch.profiler import ProfilerActivity, profile, schedule

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    layer = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)

    def step() -> None:
        received = torch.empty(sum(row[rank] for row in SENT), 4)
        dist.all_to_all_single(received, torch.ones(sum(SENT[rank]), 4), [row[rank] for row in SENT], list(SENT[rank]))
        layer(torch.ones(128, 64)).sum().backward()
        optimizer.step()
        dist.all_gather([torch.empty(10), torch.empty(10)], torch.ones(10))
        dist.reduce_scatter_tensor(torch.empty(10), torch.ones(20))
        concurrent = []
        for n in (100, 300):
            concurrent.append(dist.all_reduce(torch.ones(n, dtype=torch.float64), async_op=True))
            # gloo has two threads, which could start the two in either order; a profile shows no other order.
            time.sleep(5e-3)
        for work in concurrent:
            work.wait()
        dist.broadcast(torch.ones(7, dtype=torch.int64), 0)
        dist.barrier()

    with profile(
        activities=[ProfilerActivity.CPU],
        record_shapes=True,
        schedule=schedule(wait=1, warmup=1, active=STEPS, repeat=1),  # DDP rebuilds its buckets in step 1
        on_trace_ready=lambda done: done.export_chrome_trace(str(folder / f"rank{rank}.json.gz")),
    ) as profiler:
        for _ in range(STEPS + 2):
            step()
            profiler.step()
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_profile_of_two_gloo_ranks_is_imported_completely(tmp_path):
    # Imported here, because the ranks do not need these modules.
    from dessim.cluster import load_cluster
    from dessim.commands.replay import replay
    from dessim.trace.check import check_trace
    from dessim.trace.matched import matched_collectives
    from tests.trace.importers.test_kineto import imported

    context = forked_from_everything()
    processes = [context.Process(target=capture, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        process.kill()
    (tmp_path / "meeting").unlink(missing_ok=True)

    trace, lacking = imported(tmp_path)
    assert check_trace(trace) == []
    # Each process converts its ticks to seconds with its own estimate, so clocks may differ, by much less than 1 ms.
    said = [re.sub(r"by up to \d{1,3} us", "slightly", sentence.split(":")[0]) for sentence in lacking]
    assert [sentence for sentence in said if sentence != "clocks differ slightly"] == ["groups are not recorded"]
    assert (trace.header.backend, trace.header.device, len(trace.header.recorded_steps)) == ("gloo", "cpu", STEPS)
    expected = {
        "all_to_all.1": (Collective.ALL_TO_ALL, (16 * 12, 16 * 20), "float32"),
        "all_reduce.1": (Collective.ALL_REDUCE, 4 * (64 * 64 + 64), "float32"),  # DDP's bucket
        "all_gather.1": (Collective.ALL_GATHER, 4 * 20, "float32"),
        "reduce_scatter.1": (Collective.REDUCE_SCATTER, 4 * 20, "float32"),
        "all_reduce.2": (Collective.ALL_REDUCE, 800, "float64"),
        "all_reduce.3": (Collective.ALL_REDUCE, 2400, "float64"),
        "broadcast.1": (Collective.BROADCAST, 56, "int64"),
        "barrier.1": (Collective.BARRIER, 0, "uint8"),
    }
    for rank, ops in enumerate(trace.ranks):
        for number in trace.header.recorded_steps:
            recorded = {
                op.name: (op.collective, op.bytes, op.dtype)
                for op in ops
                if op.step == number and op.kind is Kind.COLLECTIVE
            }
            assert recorded == {
                name: (kind, size if isinstance(size, int) else size[rank], dtype)
                for name, (kind, size, dtype) in expected.items()
            }
        assert {op.splits for op in ops if op.name == "all_to_all.1"} == {tuple(16 * n for n in SENT[rank])}
        assert {op.phase for op in ops if op.name == "all_reduce.1"} == {Phase.BACKWARD}
        assert any(op.kind is Kind.COMPUTE and op.phase is Phase.OPTIMIZER for op in ops)
        assert sum(op.kind is Kind.COMPUTE and op.name == "AddmmBackward0" for op in ops) == STEPS
    synchronizing = [m for m in matched_collectives(trace) if m.collective is not Collective.BROADCAST]
    assert len(synchronizing) == STEPS * (len(expected) - 1) and all(m.transfer_us > 0 for m in synchronizing)
    replayed = replay(trace, load_cluster("one-switch_16"))
    assert len(replayed.predicted) == STEPS and min(replayed.predicted) > 0
