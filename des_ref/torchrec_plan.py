"""TorchRec's sharding plans from and to the JSON files that dessim writes and prices:

    dessim plan --model model.toml --cluster my-cluster.toml --gpus 8 --batch 65536 --to torchrec -o plan.json

    from des_ref.torchrec_plan import load_plan, save_plan
    model = DistributedModelParallel(model, plan=load_plan("plan.json", model), ...)
    save_plan("theirs.json", planner.collective_plan(model, sharders, group), world_size=8)

    python -m des_ref.torchrec_plan --model dlrm_dcnv2 --gpus 8 --batch 8192 --memory 80GB -o theirs.json

The last writes the plan that TorchRec's own planner makes for a model file, from the strategies that dessim can price.
The format is that of dessim.workload.torchrec_plan: no file is unpickled.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from des_ref.cli import Parser, output_file, run
from dessim.errors import FileError, UnitError, UsageError
from dessim.files import write_text
from dessim.processes import leave
from dessim.units import parse_size
from dessim.workload.model import Model, load_model
from dessim.workload.torchrec_plan import (
    TYPES,
    Shard,
    Sharding,
    ShardingFile,
    ShardingSpec,
    read_file,
    rows_of,
    table_names,
)

_NOT_HELD = ("cache_params", "enforce_hbm", "stochastic_rounding", "bounds_check_mode", "output_dtype")
"""Settings of a table that a file does not hold."""


def load_plan(path: str | Path, module: nn.Module, device: str = "cuda") -> Any:
    """The ShardingPlan of a file, for the EmbeddingBagCollections and EmbeddingCollections in `module`.

    Tables are found by name, whatever the paths of the file. `device` "cpu" places all shards on CPUs. Raises FileError
    for a table that the module does not have, or has in another size, and for one that the file leaves out.
    """
    from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan

    path = Path(path)
    file = read_file(path)
    shardings = {name: sharding for tables in file.plan.values() for name, sharding in tables.items()}
    plans: dict[str, Any] = {}
    for where, part in module.named_modules():
        configs = _configs(part)
        for config in configs:
            if config.name not in shardings:
                raise FileError(path, "plan", f"table {config.name} of {where or 'the module'} is left out")
            _require_size(path, config, shardings[config.name])
        if configs:
            plans[where] = EmbeddingModuleShardingPlan(
                {config.name: _parameter_sharding(shardings.pop(config.name), device) for config in configs}
            )
    for name in shardings:
        raise FileError(path, name, "is no table of the module")
    return ShardingPlan(plans)


def save_plan(path: str | Path, plan: Any, world_size: int) -> None:
    """Write a ShardingPlan, whole or not at all. Raises UsageError for settings that the format does not hold."""
    tables = {
        where: {name: _sharding(name, sharding) for name, sharding in module.items()}
        for where, module in plan.plan.items()
    }
    write_text(path, ShardingFile(world_size=world_size, plan=tables).text())


def _configs(module: nn.Module) -> list[Any]:
    """The tables of a collection; none of any other module."""
    for name in ("embedding_bag_configs", "embedding_configs"):
        if callable(configs := getattr(module, name, None)):
            return list(configs())
    return []


def _require_size(path: Path, config: Any, sharding: Sharding) -> None:
    """Raises FileError if the shards of a table end elsewhere than the table."""
    shards = sharding.sharding_spec.shards if sharding.sharding_spec is not None else ()
    ends = [[start + size for start, size in zip(s.shard_offsets, s.shard_sizes, strict=True)] for s in shards]
    shape = [config.num_embeddings, config.embedding_dim]
    covered = [max(axis) for axis in zip(*ends, strict=True)]
    if shards and covered != shape:
        sizes = [f"{rows:,} x {columns}" for rows, columns in (covered, shape)]
        raise FileError(path, config.name, f"is sharded as {sizes[0]}, the module's table has {sizes[1]}")


def _parameter_sharding(sharding: Sharding, device: str) -> Any:
    from torchrec.distributed.types import EnumerableShardingSpec, ParameterSharding, ShardMetadata

    spec = None
    if sharding.sharding_spec is not None:
        shards = [
            ShardMetadata(list(s.shard_offsets), list(s.shard_sizes), _on(s.placement, device))
            for s in sharding.sharding_spec.shards
        ]
        spec = EnumerableShardingSpec(shards)
    return ParameterSharding(sharding.sharding_type, sharding.compute_kernel, list(sharding.ranks), spec)


def _on(placement: str, device: str) -> str:
    """A placement such as rank:9/cuda:1 on another kind of device; all CPUs of a server are one."""
    rank, _, at = placement.partition("/")
    _, _, number = at.partition(":")
    return f"{rank}/{device}:{number}" if device != "cpu" and number else f"{rank}/{device}"


def _sharding(name: str, theirs: Any) -> Sharding:
    held = [setting for setting in (*_NOT_HELD, "key_value_params") if getattr(theirs, setting, None) is not None]
    if held:
        raise UsageError(f"table {name} has {', '.join(held)}, which the file of a plan does not hold")
    spec = None
    if theirs.sharding_spec is not None:
        shards = [
            Shard(shard_offsets=s.shard_offsets, shard_sizes=s.shard_sizes, placement=str(s.placement))
            for s in theirs.sharding_spec.shards
        ]
        spec = ShardingSpec(shards=tuple(shards))
    return Sharding(
        sharding_type=theirs.sharding_type,
        compute_kernel=theirs.compute_kernel,
        ranks=tuple(theirs.ranks),
        sharding_spec=spec,
    )


def bags_of(model: Model) -> Any:
    """The tables of a model file as an EmbeddingBagCollection without memory, each with a feature of its own name.

    Raises UsageError for a pooling that TorchRec does not have.
    """
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, PoolingType

    poolings = {"sum": PoolingType.SUM, "mean": PoolingType.MEAN}
    if model.embedding.pooling not in poolings:
        raise UsageError(f"{model.name} pools by {model.embedding.pooling}; TorchRec pools by sum or mean")
    configs = [
        EmbeddingBagConfig(
            num_embeddings=rows,
            embedding_dim=width,
            name=name,
            feature_names=[name],
            pooling=poolings[model.embedding.pooling],
        )
        for name, rows, width in zip(table_names(model), rows_of(model), model.widths, strict=True)
    ]
    return EmbeddingBagCollection(configs, device=torch.device("meta"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TorchRec's warnings, which concern CUDA parts and settings that a plan for another machine has not."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def planned_by_torchrec(model: Model, gpus: int, gpus_per_node: int, batch: int, memory: float) -> Any:
    """The ShardingPlan that TorchRec's planner makes for a model's tables, from the strategies that dessim can price.

    `batch`: samples of each GPU. `memory`: bytes of a GPU. The planner knows the mean ids of each table; bandwidths are
    TorchRec's defaults. Raises UsageError if it finds no plan.
    """
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
    from torchrec.distributed.planner.types import PlannerError

    ids = model.input.ids_per_sample
    constraints = {
        name: ParameterConstraints(
            sharding_types=list(TYPES), compute_kernels=["fused", "dense"], pooling_factors=[ids * share]
        )
        for name, (_, share, _) in zip(table_names(model), model.law.tables(), strict=True)
    }
    try:
        with _quiet():
            topology = Topology(gpus, "cuda", hbm_cap=int(memory), local_world_size=min(gpus_per_node, gpus))
            planner = EmbeddingShardingPlanner(topology, batch_size=batch, constraints=constraints)
            return planner.plan(bags_of(model), [EmbeddingBagCollectionSharder()])
    except PlannerError as error:
        raise UsageError(f"TorchRec's planner: {str(error).strip().splitlines()[0]}") from None


def _bytes(text: str) -> float:
    try:
        return parse_size(text)
    except UnitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number of at least 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="des_ref.torchrec_plan", description="Write the plan that TorchRec's planner makes for a model.")
    p.add_argument("--model", required=True, help="model file, or a shipped model such as dlrm_dcnv2")
    p.add_argument("--gpus", type=_count, required=True, help="number of GPUs")
    p.add_argument("--gpus-per-node", type=_count, default=8, help="GPUs of a server (default: 8)")
    p.add_argument("--batch", type=_count, required=True, help="samples of each GPU and step")
    p.add_argument("--memory", type=_bytes, default=80e9, metavar="SIZE", help="of a GPU (default: 80GB)")
    p.add_argument("-o", "--out", type=output_file, required=True, metavar="FILE", help="file to write, .json")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    model = load_model(args.model)
    with _quiet():
        try:
            import torchrec  # noqa: F401
        except (ImportError, OSError) as error:
            raise UsageError(f"TorchRec is not available here ({error}): pip install torchrec fbgemm-gpu") from None
    plan = planned_by_torchrec(model, args.gpus, args.gpus_per_node, args.batch, args.memory)
    save_plan(args.out, plan, args.gpus)
    return 0


if __name__ == "__main__":
    leave(run("des_ref.torchrec_plan", main))
