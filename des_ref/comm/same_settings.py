"""Refuses a run whose processes were given different settings, before its first step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from des_ref.comm.group import Comm
from dessim.errors import UsageError

_NAME = "settings"


def require_same(comm: Comm, settings: Mapping[str, Any]) -> None:
    """Compare every process's `settings`, JSON values, by their hash. Every process calls it.

    Raises UsageError on every process, which names the first setting that differs from rank 0's, and a rank.
    """
    text = json.dumps(settings, sort_keys=True)
    hashes = comm.gather_text(_NAME, hashlib.sha256(text.encode()).hexdigest())
    if len(set(hashes)) == 1:
        return
    first, *others = [dict(_flat(json.loads(other))) for other in comm.gather_text(_NAME, text)]
    for rank, other in enumerate(others, start=1):
        for key in sorted(first.keys() | other.keys()):
            if first.get(key) != other.get(key):
                here, there = (json.dumps(values.get(key)) for values in (first, other))
                problem = f"{key} is {here} on rank 0 and {there} on rank {rank}"
                raise UsageError(f"{problem}: start all ranks with the same options and files")


def _flat(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of nested tables, with their keys joined by dots."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
