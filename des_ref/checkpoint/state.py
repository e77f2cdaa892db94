"""The state that a checkpoint stores, and how m workers take over from n.

It stores the rows with their optimizer state, each row once, under its key; the dense parameters and their optimizer
state, whole; and the progress of the run. Everything else can be derived: the order of samples from (seed, epoch), a
random draw from (seed, step, layer, place in the batch), a row's first values from (seed, id). Ids in flight belong to
the next batch, which is read and sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from des_ref.checkpoint.files import Groups, read_dense, read_rows, rows_name
from des_ref.config import PlanSettings, Settings
from des_ref.strategies.base import FIELD, Strategy
from dessim.errors import FileError, UsageError
from dessim.workload.model import Model


@dataclass(frozen=True, slots=True)
class Snapshot:
    """This worker's part of a checkpoint, copied to host memory, so that training cannot change it.

    rows_file   name of the file for `rows`; None on workers whose rows another worker saves
    dense       dense parameters and their optimizer state; None on all workers but one
    """

    rows_file: str | None
    rows: Groups
    dense: Mapping[str, Tensor] | None


def take(strategy: Strategy, rank: int, ranks: int) -> Snapshot:
    """Take a snapshot between two steps. Every worker calls it."""
    dense_state = strategy.dense_state()
    dense = {name: _to_host(t) for name, t in dense_state.items()} if rank == 0 else None
    if strategy.rows_replicated:
        if rank:
            return Snapshot(None, {}, dense)
        ranks = 1  # rank 0 saves every row
    # A table exports copies. Rows that every worker keeps are saved by their owner only.
    groups = _own_lines(strategy.table.export(), strategy) if strategy.shares_rows else strategy.table.export()
    rows = {group: {name: t.cpu() for name, t in lines.items()} for group, lines in groups.items()}
    return Snapshot(rows_name(rank, ranks), rows, dense)


def restore(strategy: Strategy, checkpoint: Path, manifest: Mapping[str, Any], rank: int, ranks: int) -> None:
    """Load a checkpoint into a strategy that has not trained yet. Raises FileError, UsageError."""
    strategy.load_dense(read_dense(checkpoint), manifest["step"])
    names = sorted(name for name in manifest["files"] if name.startswith("rows-"))
    if len(names) == ranks and not (strategy.rows_replicated or strategy.shares_rows):
        strategy.table.load(read_rows(checkpoint / names[rank]))
        return
    # One file at a time: all of them together may not fit into this worker's memory.
    parts = [_own_lines(read_rows(checkpoint / name), strategy, with_shared=True) for name in names]
    joined = {
        group: {name: torch.cat([part[group][name] for part in parts]) for name in lines}
        for group, lines in parts[0].items()
    }
    strategy.table.load(joined)


def _own_lines(groups: Groups, strategy: Strategy, with_shared: bool = False) -> dict[str, dict[str, Tensor]]:
    """The lines of `groups` whose keys this worker owns; `with_shared`: also those of rows that every worker keeps.

    Raises UsageError where owners follow from fields and the fields were not saved.
    """
    if strategy.rows_replicated:
        return {group: dict(lines) for group, lines in groups.items()}
    own = {}
    for group, lines in groups.items():
        keys = lines["keys"]
        if strategy.placed_by_field and FIELD not in lines:
            raise UsageError(f"{group} were saved without their fields: resume on as many workers as saved them")
        field = lines[FIELD][:, 0].to(torch.int64) if strategy.placed_by_field else torch.zeros_like(keys)
        is_kept = strategy.owns(keys, field)
        if with_shared and strategy.shares_rows:
            is_kept |= strategy.is_everywhere(keys.to(strategy.network.device), field).to(keys.device)
        own[group] = {name: t[is_kept] for name, t in lines.items()}
    return own


def identity(settings: Settings, model: Model, data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run must share with the checkpoint it resumes from; `data` describes the samples.

    The number of workers is not part of it, unless a plan combines strategies: such a plan names owners of rows.
    """
    return {
        "model": model.model_dump(mode="json", exclude={"embedding": {"optimizer", "optimizer_slots"}}),
        "strategy": settings.strategy,
        **(_of_plan(settings.plan) if settings.plan is not None and settings.tables else {}),
        "seed": settings.seed,
        "dtype": settings.dtype,
        "training": {"batch": settings.training.batch},
        "rows": settings.rows.model_dump(mode="json"),
        "optimizer": settings.optimizer.model_dump(mode="json"),
        **({"codecs": str(settings.wire.codes)} if settings.wire.codes else {}),
        "data": dict(data),
    }


def _of_plan(plan: PlanSettings) -> dict[str, Any]:
    replicas = {"replicas": plan.replicas} if plan.replicas > 1 else {}
    tables = plan.model_dump(mode="json")["tables"]
    for table in tables:
        if not table["cached_rows"]:
            del table["cached_rows"]  # checkpoints of tables on GPUs name none
    return {"tables": tables, "workers": plan.gpus, **replicas}


def check_identity(checkpoint: Path, saved: Any, ours: Any, where: str = "") -> None:
    """Raises FileError, which names the first setting that differs. `where` is the key of `saved` and `ours`."""
    if isinstance(saved, dict) and isinstance(ours, dict):
        # `name` first: another optimizer also has other settings, which would be less helpful to name.
        for key in sorted(saved.keys() | ours.keys(), key=lambda key: (key != "name", key)):
            check_identity(checkpoint, saved.get(key), ours.get(key), f"{where}.{key}" if where else key)
    elif saved != ours:
        problem = f"was saved with {where} = {saved!r}, but this run has {ours!r}"
        raise FileError(checkpoint, "", f"{problem}: resume with the settings of the run that saved it")


def _to_host(tensor: Tensor) -> Tensor:
    """A copy in host memory, even of a tensor that is already in it."""
    return tensor.detach().to("cpu", copy=True)
