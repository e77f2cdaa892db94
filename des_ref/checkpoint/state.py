"""What a checkpoint keeps of a run, and how m workers take over from n.

Kept are the rows with their optimizer's state, each once, under its key; the dense part and its optimizer's state,
whole; and how far the run is. All else follows: the order of samples from (seed, epoch), a dropout mask from (seed,
step), a row's first values from (seed, id), the ids under way from the next batch, which is read and sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from des_ref.checkpoint.files import Groups, read_dense, read_rows, rows_name
from des_ref.config import Settings
from des_ref.strategies.base import FIELD, Strategy
from dessim.errors import FileError, UsageError
from dessim.workload.model import Model


@dataclass(frozen=True, slots=True)
class Snapshot:
    """This worker's part of a checkpoint, in host memory: nothing that trains writes into it.

    rows_file   its name, and `rows` what goes into it; None on workers whose rows another one has
    dense       on one worker only
    """

    rows_file: str | None
    rows: Groups
    dense: Mapping[str, Tensor] | None


def take(strategy: Strategy, rank: int, ranks: int) -> Snapshot:
    """Between two steps; every worker calls it."""
    dense = strategy.dense_state()
    kept = {name: _to_host(t) for name, t in dense.items()} if rank == 0 else None
    if strategy.rows_replicated:
        rank, ranks = (0, 1) if rank == 0 else (rank, ranks)
        if rank:
            return Snapshot(None, {}, kept)
    # What a table exports is a copy already. Rows that everyone keeps are in their owner's file.
    groups = _lines(strategy.table.export(), strategy, rank) if strategy.shares_rows else strategy.table.export()
    rows = {group: {name: t.cpu() for name, t in lines.items()} for group, lines in groups.items()}
    return Snapshot(rows_name(rank, ranks), rows, kept)


def restore(strategy: Strategy, checkpoint: Path, manifest: Mapping[str, Any], rank: int, ranks: int) -> None:
    """Into a strategy that has not trained yet. Raises FileError, UsageError."""
    strategy.load_dense(read_dense(checkpoint), manifest["step"])
    names = sorted(name for name in manifest["files"] if name.startswith("rows-"))
    if len(names) == ranks and not (strategy.rows_replicated or strategy.shares_rows):
        strategy.table.load(read_rows(checkpoint / names[rank]))
        return
    # A file at a time: all of them together may be more than this worker can hold.
    parts = [_lines(read_rows(checkpoint / name), strategy, rank, others=True) for name in names]
    joined = {
        group: {name: torch.cat([part[group][name] for part in parts]) for name in lines}
        for group, lines in parts[0].items()
    }
    strategy.table.load(joined)


def _lines(groups: Groups, strategy: Strategy, rank: int, others: bool = False) -> dict[str, dict[str, Tensor]]:
    """The lines whose keys this worker owns, and with `others` those that it keeps beside."""
    if strategy.rows_replicated:
        return {group: dict(lines) for group, lines in groups.items()}
    own = {}
    for group, lines in groups.items():
        keys = lines["keys"]
        if strategy.placed_by_field and FIELD not in lines:
            raise UsageError(f"{group} were saved without their fields: resume on as many workers as saved them")
        field = lines[FIELD][:, 0].to(torch.int64) if strategy.placed_by_field else torch.zeros_like(keys)
        mine = strategy.owner(keys, field) == rank
        if others and strategy.shares_rows:
            mine |= strategy.is_everywhere(keys.to(strategy.network.device)).to(keys.device)
        own[group] = {name: t[mine] for name, t in lines.items()}
    return own


def identity(settings: Settings, model: Model, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a run must have in common with the one that it goes on from; how many workers it has is not in it. `data`
    says what it is trained on."""
    return {
        "model": model.model_dump(mode="json", exclude={"embedding": {"optimizer", "optimizer_slots"}}),
        "strategy": settings.strategy,
        "seed": settings.seed,
        "dtype": settings.dtype,
        "training": {"batch": settings.training.batch},
        "rows": settings.rows.model_dump(mode="json"),
        "optimizer": settings.optimizer.model_dump(mode="json"),
        **({"codecs": str(settings.wire.codes)} if settings.wire.codes else {}),
        "data": dict(data),
    }


def check_identity(checkpoint: Path, saved: Any, ours: Any, where: str = "") -> None:
    """Raises FileError naming the first setting that is another one."""
    if isinstance(saved, dict) and isinstance(ours, dict):
        # The name first: where it is another optimizer, so are its settings.
        for key in sorted(saved.keys() | ours.keys(), key=lambda key: (key != "name", key)):
            check_identity(checkpoint, saved.get(key), ours.get(key), f"{where}.{key}" if where else key)
    elif saved != ours:
        problem = f"was saved with {where} = {saved!r}, but this run has {ours!r}"
        raise FileError(checkpoint, "", f"{problem}: resume with the settings of the run that saved it")


def _to_host(tensor: Tensor) -> Tensor:
    """A copy in any case."""
    return tensor.detach().to("cpu", copy=True)
