"""Findings as files: tests/fuzz/findings/FORMAT/KIND-WHERE-HASH.SUFFIX, read again by the tests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.watch import Verdict

FINDINGS = Path(__file__).with_name("findings")
_TRIALS = 300


def keep(folder: Path, name: str, data: bytes, verdict: Verdict) -> Path:
    """Write a finding of a format, and what it did beside it."""
    words = re.sub(r"[^\w]+", "_", f"{verdict.kind} {verdict.where}").strip("_")[:80]
    path = folder / name / f"{words}-{hashlib.sha256(data).hexdigest()[:8]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def shrunk(data: bytes, is_same: Callable[[bytes], bool]) -> bytes:
    """A part of `data` that is still the same finding: lines, then bytes, are left out while it is."""
    trials = 0
    for split in (b"\n", b""):
        pieces = data.split(split) if split else [data[i : i + 1] for i in range(len(data))]
        size = max(len(pieces) // 2, 1)
        while size and trials < _TRIALS:
            start = 0
            while start < len(pieces) and trials < _TRIALS:
                rest = pieces[:start] + pieces[start + size :]
                trials += 1
                if is_same(split.join(rest)):
                    pieces = rest
                else:
                    start += size
            size //= 2
        data = split.join(pieces)
    return data
