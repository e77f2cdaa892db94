"""The folder with the checkpoints of a run.

    runs/a/
      step-0000000500/
        dense/model-00001-of-00001.safetensors ...   dense parameters and their optimizer state, whole
        rows-00000-of-00002.safetensors              the rows that rank 0 owned, and their optimizer state
        rows-00001-of-00002.safetensors
        manifest.json                                step, settings, size and SHA-256 of each file; written last
      .writing-step-0000001000/                      being written, or left by a killed run; the next start removes it
      .lock                                          the process that writes into the folder (dessim/locks.py)

A checkpoint gets its name by one rename, after everything in it is on the disk. A named checkpoint is therefore whole
unless the disk itself lost data, which sizes and digests detect.
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
from dessim.files import parse_json, write_json

MANIFEST = "manifest.json"
LOCK = ".lock"
SCHEMA_VERSION = 1
_DIGEST = "sha256"  # key of the manifest's own digest, taken over everything else in it
_WRITING = ".writing-"
_REMOVING = ".leaving-"
_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Written:
    """A file of a checkpoint: its path inside the checkpoint, size in bytes, and SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, folder: Path, name: str) -> Written:
        """Flush the file to the disk, then read it back. Raises OSError."""
        digest = hashlib.sha256()
        size = 0
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
        return cls(name, size, digest.hexdigest())


def temporary(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is written, before it gets its name."""
    return folder / f"{_WRITING}{_name(step)}"


def newest_first(folder: Path) -> list[Path]:
    """The named checkpoints of a folder, newest first, damaged ones included."""
    names = [p for p in folder.iterdir() if re.fullmatch(r"step-\d{10}", p.name)] if folder.is_dir() else []
    return sorted(names, reverse=True)


def clean(folder: Path) -> None:
    """Remove what a killed run was writing or removing."""
    if folder.is_dir():
        for path in [p for p in folder.iterdir() if p.name.startswith((_WRITING, _REMOVING))]:
            shutil.rmtree(path)


def commit(folder: Path, step: int, about: Mapping[str, Any], files: list[Written], keep: int) -> Path:
    """Write the manifest, give the checkpoint its name, and remove all but the last `keep` up to this step.

    Raises OSError, also where a file differs from what its writer reported: ranks may not see the same folder.
    """
    draft = temporary(folder, step)
    target = folder / _name(step)
    for file in files:
        if (size := (draft / file.name).stat().st_size) != file.bytes:
            raise OSError(None, f"{file.name} has {size} bytes here and {file.bytes} where it was written")
    listed = {f.name: {"bytes": f.bytes, "sha256": f.sha256} for f in sorted(files, key=lambda f: f.name)}
    content = {"schema_version": SCHEMA_VERSION, "step": step, **about, "files": listed}
    write_json(draft / MANIFEST, content | {_DIGEST: _digest(content)})
    for path in (draft, *{(draft / f.name).parent for f in files}):
        _flush_names(path)
    if target.exists():  # a damaged one that this run refused, or one of a run that was resumed from an earlier step
        _remove(target)
    draft.rename(target)
    _flush_names(folder)
    # Checkpoints of later steps belong to a run that this one branched off from. They must not count towards `keep`,
    # or a good checkpoint of this run would be removed in their favour.
    for old in [p for p in newest_first(folder) if p.name <= target.name][keep:]:
        _remove(old)
    return target


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest without its digest. Raises FileError where it is missing or damaged."""
    path = checkpoint / MANIFEST
    try:
        manifest = parse_json(path.read_bytes())
    except OSError as error:
        raise FileError(path, "", f"cannot be read ({error.strerror}): not a checkpoint, or not a whole one") from None
    except ValueError as error:
        raise FileError(path, "", f"is damaged: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise FileError(path, "schema_version", f"must be {SCHEMA_VERSION}: written by another version")
    digest = manifest.pop(_DIGEST, None)
    if digest != _digest(manifest):
        raise FileError(path, "", f"is damaged: its content does not match its {_DIGEST}")
    files = manifest.get("files")
    is_whole = isinstance(files, dict) and all(_is_entry(name, entry) for name, entry in files.items())
    kinds = {"step": int, "run": dict, "progress": dict, "ranks": int}
    if not is_whole or not all(isinstance(manifest.get(key), kind) for key, kind in kinds.items()):
        raise FileError(path, "", "is not a manifest of des_ref.train: step, ranks, run, progress or files are wrong")
    return manifest


def _is_entry(name: str, entry: object) -> bool:
    """Whether a file is inside the checkpoint, and has its size and digest."""
    is_inside = re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name) is not None
    return is_inside and isinstance(entry, dict) and type(entry.get("bytes")) is int and "sha256" in entry


def check(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint. Raises FileError, which names the first damaged file and its damage."""
    manifest = read_manifest(checkpoint)
    for name, entry in manifest["files"].items():
        path = checkpoint / name
        try:
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise FileError(path, "", f"has {size:,} bytes where {entry['bytes']:,} were written")
            if Written.of(checkpoint, name).sha256 != entry["sha256"]:
                raise FileError(path, "", "is damaged: its SHA-256 does not match the manifest")
        except OSError as error:
            raise FileError(path, "", f"cannot be read: {error.strerror}") from None
    return manifest


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _name(step: int) -> str:
    return f"step-{step:010d}"


def _remove(path: Path) -> None:
    """Rename the checkpoint before deleting it, so that a half-deleted one is never taken for a checkpoint."""
    removing = path.with_name(f"{_REMOVING}{path.name}")
    path.rename(removing)
    shutil.rmtree(removing)


def _flush_names(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that new names survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
