"""The question that a page answers, in a few lines: command, model, cluster, batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dessim.cluster import Cluster
from dessim.results.rows import Row
from dessim.units import counted, format_count, format_size
from dessim.workload.describe_model import describe
from dessim.workload.model import Model

Asked = list[tuple[str, str]]


def asked(command: str, model: Model, cluster: Cluster, rows: Sequence[Row]) -> Asked:
    """The question of a projection or a plan. Rows have `gpus` and `batch`."""
    return [
        ("command", command),
        ("model", model_line(model)),
        ("cluster", cluster_line(cluster)),
        ("batch", batch_line(rows)),
    ]


def model_line(model: Model) -> str:
    """`deepfm: 39 tables, 33.8 M rows, 2.1 GiB with adagrad state; 499.8 k dense weights`."""
    described = describe(model)
    return (
        f"{described['name']}: {counted(described['tables'], 'table')} with {format_count(described['rows'])} rows, "
        f"{format_size(described['embedding_bytes'])} with their {described['row_optimizer']} state; "
        f"{described['ids_per_sample']:,g} ids a sample; {format_count(described['dense_weights'])} dense "
        f"weight{'' if described['dense_weights'] == 1 else 's'}"
    )


def cluster_line(cluster: Cluster) -> str:
    """`h100-8x_rail_128: 1,024 GPUs in 128 nodes of 8 h100-sxm; leaf_spine; transport nccl-ib`."""
    nodes = " + ".join(
        f"{counted(kind.block.count, 'node')} of {kind.node.gpus} {(kind.node.gpu or cluster.gpu).name}"
        for kind in cluster.wiring.kinds
    )
    return (
        f"{cluster.name}: {counted(cluster.n_gpus, 'GPU')}, {nodes}; {cluster.kind}; transport {cluster.transport.name}"
    )


def batch_line(rows: Sequence[Row]) -> str:
    """`4,096 samples a GPU: 32,768 on 8 GPUs, 262,144 on 64 GPUs`."""
    batches = dict.fromkeys((row["gpus"], row["batch"]) for row in rows)
    each = {batch / gpus for gpus, batch in batches}
    if len(batches) > 4:
        first = min(batches)
        last = max(batches)
        of_all = f"{first[1]:,} samples a step on {first[0]:,} GPUs to {last[1]:,} on {last[0]:,}"
    else:
        of_all = ", ".join(f"{batch:,} samples a step on {counted(gpus, 'GPU')}" for gpus, batch in batches)
    return f"{each.pop():,g} samples a GPU; {of_all}" if len(each) == 1 else of_all


def gpu_memory(cluster: Cluster, scales: Iterable[int]) -> dict[int, float]:
    """Bytes of the smallest GPU of the first n, for each n of `scales`."""
    return {n: min(gpu.memory for gpu, _ in cluster.devices(range(n))) for n in scales}
