"""The folder of a run's checkpoints.

    runs/a/
      step-0000000500/
        dense/model-00001-of-00001.safetensors ...   parameters and their optimizer, whole
        rows-00000-of-00002.safetensors              rows and their optimizer, what rank 0 owned
        rows-00001-of-00002.safetensors
        manifest.json                                step, settings, bytes and SHA-256 of each file; written last
      .writing-step-0000001000/                      under way, or left by a killed run: the next start removes it

A checkpoint gets its name by one rename after everything in it is on the disk, so a name that is there is whole unless
the disk itself lost something. That is what sizes and digests are for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dessim.errors import FileError
from dessim.files import write_json

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_DIGEST = "sha256"  # key in the manifest: of all else in it
_WRITING, _LEAVING = ".writing-", ".leaving-"
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """A file of a checkpoint: path inside it, size in bytes, SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, folder: Path, name: str) -> Written:
        """Read the file back, after pushing it to the disk. Raises OSError."""
        digest, size = hashlib.sha256(), 0
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
        return cls(name, size, digest.hexdigest())


def temporary(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is written."""
    return folder / f"{_WRITING}{_name(step)}"


def found(folder: Path) -> list[Path]:
    """Checkpoints, whole or not, newest first."""
    names = [p for p in folder.iterdir() if re.fullmatch(r"step-\d{10}", p.name)] if folder.is_dir() else []
    return sorted(names, reverse=True)


def clean(folder: Path) -> None:
    """Remove what a killed run was writing or removing."""
    if folder.is_dir():
        for path in [p for p in folder.iterdir() if p.name.startswith((_WRITING, _LEAVING))]:
            shutil.rmtree(path)


def commit(folder: Path, step: int, about: Mapping[str, Any], files: list[Written], keep: int) -> Path:
    """Give the written checkpoint its manifest, then its name; then remove all but the last `keep` up to this step.

    Raises OSError, also where a file is not there as its writer says: not all ranks may see the same folder.
    """
    draft, target = temporary(folder, step), folder / _name(step)
    for file in files:
        if (size := (draft / file.name).stat().st_size) != file.bytes:
            raise OSError(None, f"{file.name} has {size} bytes here and {file.bytes} where it was written")
    listed = {f.name: {"bytes": f.bytes, "sha256": f.sha256} for f in sorted(files, key=lambda f: f.name)}
    content = {"schema_version": SCHEMA_VERSION, "step": step, **about, "files": listed}
    write_json(draft / MANIFEST, content | {_DIGEST: _digest(content)})
    for path in (draft, *{(draft / f.name).parent for f in files}):
        _to_disk(path)
    if target.exists():  # refused when this run was resumed, or of a run that went on from further back
        _remove(target)
    draft.rename(target)
    _to_disk(folder)
    # Those of later steps are of a run that this one was resumed from before: none of them may push out a good one.
    for old in [p for p in found(folder) if p.name <= target.name][keep:]:
        _remove(old)
    return target


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Raises FileError."""
    path = checkpoint / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise FileError(path, "", f"cannot be read ({error.strerror}): not a checkpoint, or not a whole one") from None
    except ValueError as error:
        raise FileError(path, "", f"is damaged: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise FileError(path, "schema_version", f"must be {SCHEMA_VERSION}: written by another version")
    digest = manifest.pop(_DIGEST, None)
    if digest != _digest(manifest):
        raise FileError(path, "", f"is damaged: its content is not what its {_DIGEST} was made of")
    return manifest


def check(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint. Raises FileError naming the file that is not as it was written, and how."""
    manifest = read_manifest(checkpoint)
    for name, about in manifest["files"].items():
        path = checkpoint / name
        try:
            size = path.stat().st_size
            if size != about["bytes"]:
                raise FileError(path, "", f"has {size:,} bytes where {about['bytes']:,} were written")
            if Written.of(checkpoint, name).sha256 != about["sha256"]:
                raise FileError(path, "", "is damaged: its SHA-256 is not the one it was written with")
        except OSError as error:
            raise FileError(path, "", f"cannot be read: {error.strerror}") from None
    return manifest


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _name(step: int) -> str:
    return f"step-{step:010d}"


def _remove(path: Path) -> None:
    """Under another name first, so that no half of it can be taken for a checkpoint."""
    leaving = path.with_name(f"{_LEAVING}{path.name}")
    path.rename(leaving)
    shutil.rmtree(leaving)


def _to_disk(folder: Path) -> None:
    """Make names in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
