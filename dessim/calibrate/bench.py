"""Results of des_ref.bench: the measurements that a calibration fits a transport to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dessim.errors import FileError
from dessim.files import parse_json, read_text

_SHORTEST_S = 1e-12
_LONGEST_S = 1e9


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One timed case: `op` with `size` bytes on `ranks`, whose iterations took `seconds` (median) or `mean_seconds`.

    `size` counts as in nccl-tests (dessim.trace.schema). During all `iterations` together the cores of the machine had
    `cores_s` seconds in total, of which they were busy for `cores_busy_s` (0: not counted).
    """

    op: str
    size: int
    ranks: tuple[int, ...]
    seconds: float
    mean_seconds: float
    iterations: int = 1
    cores_s: float = 0.0
    cores_busy_s: float = 0.0

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> BenchResult:
        """Read one result. Raises KeyError, TypeError or ValueError if it is malformed."""
        seconds = float(raw["seconds"])
        result = cls(
            op=str(raw["op"]),
            size=int(raw["bytes"]),
            ranks=tuple(int(rank) for rank in raw.get("ranks", ())),
            seconds=seconds,
            mean_seconds=float(raw.get("mean_seconds", seconds)),
            iterations=int(raw.get("iterations", 1)),
            cores_s=float(raw.get("cores_s", 0.0)),
            cores_busy_s=float(raw.get("cores_busy_s", 0.0)),
        )
        if not all(_SHORTEST_S <= taken <= _LONGEST_S for taken in (result.seconds, result.mean_seconds)):
            raise ValueError(f"{result.op} of {result.size} bytes took {result.seconds:g} s, which no message does")
        if not (0 <= result.size < 2**50 and 1 <= result.iterations < 2**50):
            raise ValueError(f"{result.op} of {result.size} bytes, {result.iterations} times")
        if not all(0 <= taken <= _LONGEST_S for taken in (result.cores_s, result.cores_busy_s)):
            raise ValueError(f"{result.op} kept cores busy for {result.cores_busy_s:g} of {result.cores_s:g} s")
        return result


@dataclass(frozen=True, slots=True)
class Bench:
    """The results of a job of `world_size` ranks on a torch.distributed `backend`.

    `window` is the size of a connection's TCP window in bytes, where it is known and fixed (the lab), else inf.
    """

    world_size: int
    backend: str
    results: tuple[BenchResult, ...]
    window: float = math.inf

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Bench:
        """Read the content of a file of des_ref.bench. Raises ValueError if it is malformed.

        Cases in which several ops ran at once are left out: no fit uses them.
        """
        try:
            return cls(
                world_size=int(raw["world_size"]),
                backend=str(raw["backend"]),
                results=tuple(BenchResult.from_json(r) for r in raw["results"] if len(r.get("parts", ())) < 2),
                window=float(raw.get("window", math.inf)),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a benchmark file of des_ref.bench: {error!r}") from None


def load_bench(path: Path) -> Bench:
    """Read a file of des_ref.bench. Raises FileError."""
    text = read_text(path)
    try:
        raw = parse_json(text)
    except ValueError as error:
        raise FileError(path, "", f"not a benchmark file of des_ref.bench: {error}") from None
    try:
        return Bench.from_json(raw)
    except ValueError as error:
        raise FileError(path, "", str(error)) from None


def load_benches(paths: Sequence[Path]) -> Bench:
    """Read several files of des_ref.bench from one job on a real cluster, and join their results.

    Their window is unknown: only the lab fixes it. Raises FileError, also if the files differ in their number of ranks
    or their backend.
    """
    joined = replace(load_bench(paths[0]), window=math.inf)
    for path in paths[1:]:
        bench = load_bench(path)
        if (bench.world_size, bench.backend) != (joined.world_size, joined.backend):
            earlier = f"{joined.world_size} ranks on {joined.backend}"
            raise FileError(path, "", f"{bench.world_size} ranks on {bench.backend}, but {paths[0]} has {earlier}")
        joined = replace(joined, results=(*joined.results, *bench.results))
    return joined
