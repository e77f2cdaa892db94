"""The folders of labs that are up: `dessim-lab/<name>/` under $XDG_RUNTIME_DIR or /run, with `lab.json` and logs.

Creating the folder claims the name, so two labs never share one. If a lab was killed while it came up, its folder may
lack `lab.json`, or its namespaces may exist without a folder; `down` removes both.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dessim.errors import LabError, UsageError
from dessim.files import parse_json, write_json
from dessim.lab import iproute
from dessim.lab.layout import Layout, Port, Rank, prefix


def root() -> Path:
    """The folder of all labs."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "dessim-lab"


def claim(name: str) -> Path:
    """Create the folder of a new lab. Raises UsageError if the name is taken."""
    prefix(name)
    folder = root() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise UsageError(
            f"a lab called {name} is up; choose another --name, or end it: dessim lab down --name {name}"
        ) from None
    return folder


def save(layout: Layout) -> None:
    """Write `lab.json` atomically, without the routes, which the kernel has now."""
    value = {key: item for key, item in asdict(layout).items() if key != "routes"}
    write_json(root() / layout.name / "lab.json", {"schema_version": 1, **value})


def load(name: str) -> Layout:
    """The layout of a lab that is up. Raises UsageError if it is not up, LabError if its file is malformed."""
    prefix(name)
    file = root() / name / "lab.json"
    try:
        value: dict[str, Any] = parse_json(file.read_text("utf-8"))
        value.pop("schema_version")
        ports = tuple(Port(**port) for port in value.pop("ports"))
        ranks = tuple(Rank(**rank) for rank in value.pop("ranks"))
        value |= {key: tuple(value[key]) for key in ("spaces", "gpus_per_node", "left_out")}
        return Layout(**value, ports=ports, ranks=ranks)
    except FileNotFoundError:
        if file.parent.is_dir() or iproute.spaces(prefix(name)):
            problem = f"lab {name} is incomplete: dessim lab up is still building it, or was killed"
            raise LabError(f"{problem}; remove it: dessim lab down --name {name}") from None
        up = ", ".join(names()) or "none"
        raise UsageError(f"no lab called {name} is up (up: {up}); start one with: dessim lab up FILE") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise LabError(f"{file}: not the state of a lab; remove it: dessim lab down --name {name}") from None


def names() -> list[str]:
    """The names of labs that have a folder, sorted; some may be incomplete."""
    return sorted(entry.name for entry in root().iterdir() if entry.is_dir()) if root().is_dir() else []


def forget(name: str) -> None:
    """Remove the folder of a lab, including its logs."""
    shutil.rmtree(root() / name, ignore_errors=True)
