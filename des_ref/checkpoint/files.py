"""Tensors to files and back: safetensors throughout, because pickle runs whatever a file says.

The dense part goes through torch.distributed.checkpoint with its safetensors storage (its usual storage keeps metadata
as a pickle), so other tools can read it; rows are a file a rank.
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

DENSE = "dense"  # folder of the dense part

Groups = Mapping[str, Mapping[str, Tensor]]


def rows_name(rank: int, ranks: int) -> str:
    return f"rows-{rank:05d}-of-{ranks:05d}.safetensors"


def write_rows(path: Path, groups: Groups) -> None:
    """A table's exported groups; a tensor is called group/column. Raises OSError."""
    flat = {f"{group}/{name}": t.contiguous() for group, lines in groups.items() for name, t in lines.items()}
    try:
        save_file(flat, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))  # of the system, as Rust prints it
        raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from None
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors leaves it to its owner alone


def read_rows(path: Path) -> dict[str, dict[str, Tensor]]:
    """What `write_rows` wrote."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path).items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups


def write_dense(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Into `folder`/dense. Raises OSError."""
    dcp = parallel_checkpoint()
    try:
        dcp.save(dict(state), storage_writer=dcp.HuggingFaceStorageWriter(str(folder / DENSE)), no_dist=True)
    except dcp.CheckpointException as error:
        # One process writes, so there is one failure.
        problem = next(iter(error.failures.values()))[0]
        raise problem if isinstance(problem, OSError) else OSError(str(problem)) from None


def read_dense(folder: Path) -> dict[str, Tensor]:
    """Every tensor in `folder`/dense by name."""
    dcp = parallel_checkpoint()
    reader = dcp.HuggingFaceStorageReader(str(folder / DENSE))
    found = reader.read_metadata().state_dict_metadata
    state = {name: torch.empty(about.size, dtype=about.properties.dtype) for name, about in found.items()}
    try:
        dcp.load(state, storage_reader=reader, no_dist=True)
    except dcp.CheckpointException as error:
        raise FileError(folder / DENSE, "", f"cannot be read: {next(iter(error.failures.values()))[0]}") from None
    return state


def parallel_checkpoint() -> Any:
    """torch.distributed.checkpoint, imported when needed: it takes a second. Raises UsageError for an old torch."""
    import torch.distributed.checkpoint as dcp

    if not hasattr(dcp, "HuggingFaceStorageWriter"):
        raise UsageError(f"checkpoints need torch 2.8 or newer, and this is {torch.__version__}")
    # That nobody else takes part is meant.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
    return dcp
