"""Tensors to files and back. All files are safetensors, because reading a pickle runs whatever code is in it.

Dense parameters are written by torch.distributed.checkpoint with its safetensors storage (its default storage keeps
metadata in a pickle), so that other tools can read them. Rows are one file per rank.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dessim.errors import FileError, UsageError

DENSE = "dense"  # folder of the dense parameters and their optimizer state

Groups = Mapping[str, Mapping[str, Tensor]]  # group -> column -> values, as a table exports them


def rows_name(rank: int, ranks: int) -> str:
    """The name of the file with a rank's rows."""
    return f"rows-{rank:05d}-of-{ranks:05d}.safetensors"


def write_rows(path: Path, groups: Groups) -> None:
    """Write the groups that a table exports, each tensor under the key group/column. Raises OSError."""
    flat = {f"{group}/{name}": t.contiguous() for group, columns in groups.items() for name, t in columns.items()}
    try:
        save_file(flat, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))  # errno, as Rust prints it
        raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from None
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors creates it readable by its owner only


def read_rows(path: Path) -> dict[str, dict[str, Tensor]]:
    """The groups that `write_rows` wrote."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path).items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups


def write_dense(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write `state` into `folder`/dense. Raises OSError."""
    dcp = distributed_checkpoint()
    try:
        dcp.save(dict(state), storage_writer=dcp.HuggingFaceStorageWriter(str(folder / DENSE)), no_dist=True)
    except dcp.CheckpointException as error:
        # One process writes, so there is one failure.
        problem = next(iter(error.failures.values()))[0]
        raise problem if isinstance(problem, OSError) else OSError(str(problem)) from None


def read_dense(folder: Path) -> dict[str, Tensor]:
    """Every tensor in `folder`/dense by name. Raises FileError."""
    dcp = distributed_checkpoint()
    reader = dcp.HuggingFaceStorageReader(str(folder / DENSE))
    metadata = reader.read_metadata().state_dict_metadata
    state = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in metadata.items()}
    try:
        dcp.load(state, storage_reader=reader, no_dist=True)
    except dcp.CheckpointException as error:
        raise FileError(folder / DENSE, "", f"cannot be read: {next(iter(error.failures.values()))[0]}") from None
    return state


def distributed_checkpoint() -> Any:
    """torch.distributed.checkpoint, imported on first use because that takes a second. Raises UsageError."""
    import torch.distributed.checkpoint as dcp

    if not hasattr(dcp, "HuggingFaceStorageWriter"):
        raise UsageError(f"checkpoints need torch 2.8 or newer; this is {torch.__version__}")
    # We use it in one process on purpose.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
    return dcp
