"""The digest of what a simulation depends on: values and arrays, not the names of files or of what they describe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

import dessim
from dessim.cluster import Cluster
from dessim.workload.model import Model


def digest(*values: object) -> str:
    """A digest of values: numbers, texts, None, arrays, sequences, mappings, dataclasses and pydantic models.

    Raises TypeError for anything else, whose content is unknown.
    """
    hasher = hashlib.blake2b(digest_size=16)
    _feed(hasher.update, values)
    return hasher.hexdigest()


def cluster_digest(cluster: Cluster) -> str:
    """The digest of a cluster, whatever its name and the place of its file."""
    return digest(replace(cluster, name="", description="", path=Path()))


def model_digest(model: Model) -> str:
    """The digest of a model, whatever its name."""
    return digest(model.model_dump(mode="json", exclude={"name"}))


@lru_cache(maxsize=1)
def code_version() -> str:
    """The version of dessim and a digest of its code, so that results of changed code are not taken for the same."""
    root = Path(dessim.__file__).parent
    hasher = hashlib.blake2b(digest_size=8)
    for file in sorted(root.rglob("*.py")):
        hasher.update(file.relative_to(root).as_posix().encode())
        hasher.update(file.read_bytes())
    return f"{version('dessim')}+{hasher.hexdigest()}"


def _feed(update: Any, value: object) -> None:
    """Feed a value with its kind and length, so that no two values give the same bytes."""
    if value is None or isinstance(value, str | bytes | bool | int | float):
        text = value if isinstance(value, bytes) else repr(value).encode()
        update(f"{type(value).__name__}{len(text)}:".encode())
        update(text)
    elif isinstance(value, np.ndarray):
        update(f"array{value.dtype.str}{value.shape}:".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, np.generic):
        _feed(update, value.item())
    elif isinstance(value, Path):
        _feed(update, str(value))
    elif isinstance(value, Mapping):
        update(f"map{len(value)}:".encode())
        for key, item in value.items():
            _feed(update, key)
            _feed(update, item)
    elif isinstance(value, Sequence):
        update(f"list{len(value)}:".encode())
        for item in value:
            _feed(update, item)
    elif isinstance(value, BaseModel):
        _feed(update, [type(value).__name__, value.model_dump()])
    elif is_dataclass(value) and not isinstance(value, type):
        _feed(update, [type(value).__qualname__, {f.name: getattr(value, f.name) for f in fields(value)}])
    else:
        raise TypeError(f"the content of a {type(value).__qualname__} is unknown")
