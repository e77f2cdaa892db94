"""A study file: grids of axes, expanded to their points in the order of the file.

    [grid]
    model = "deepfm"
    cluster = ["h100-8x_rail_128", "mine.toml"]
    strategy = ["des_reduce_scatter", "table_wise"]
    gpus = "8..1024"

    [[exclude]]                # points that all its keys match
    strategy = "table_wise"
    gpus = "512.."             # from 512; also "..8" and "8..64"

Of the axes of a grid, the one that is written last varies fastest. Several `[[grid]]` are listed one after the other.
With `[[where]]`, only points that match one of them are kept. File names are those beside the study file, or shipped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dessim.errors import FileError
from dessim.files import read_toml
from dessim.sweep.axes import AXES, REQUIRED, Axis, Plain, Value, axis_named, values_of
from dessim.wording import did_you_mean

MOST_POINTS = 200_000
_KEYS = ("schema_version", "name", "description", "grid", "where", "exclude")
_Condition = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """A point of the grid: the value of every axis, and the label of every axis that the study file names."""

    settings: Mapping[str, Plain]
    labels: Mapping[str, Plain]

    def __str__(self) -> str:
        """The labels in one line, without those of defaults."""
        stated = ((name, label) for name, label in self.labels.items() if label != AXES[name].default)
        return ", ".join(f"{name} = {label}" for name, label in stated)


@dataclass(frozen=True, slots=True)
class Study:
    """A study file: its points in order, and the names of its axes."""

    path: Path
    name: str
    axes: tuple[str, ...]
    points: tuple[Point, ...]


def read_study(path: Path) -> Study:
    """Read and expand a study file. Raises FileError, which names the mistaken key."""
    tables = read_toml(path)
    for key in tables:
        if key not in _KEYS:
            known = f"{did_you_mean(key, _KEYS)}keys: {', '.join(_KEYS)}"
            advice = f"{key} is an axis: put it under [grid]" if key in AXES else known
            raise FileError(path, key, f"unknown key; {advice}")
    if tables.get("schema_version", 1) != 1:
        raise FileError(path, "schema_version", f"is {tables['schema_version']!r}; this dessim reads 1")
    name = tables.get("name", path.stem)
    if not isinstance(name, str) or not name:
        raise FileError(path, "name", "write a text in quotes")
    grids = _tables(path, "grid", tables.get("grid"))
    if not grids:
        raise FileError(path, "grid", f"missing; write [grid] with {', '.join(REQUIRED)}")
    expanded = [_axes(path, f"grid.{i}" if len(grids) > 1 else "grid", grid) for i, grid in enumerate(grids)]
    size = sum(math.prod(map(len, axes.values())) for axes in expanded)
    if size > MOST_POINTS:
        raise FileError(path, "grid", f"has {size:,} points; at most {MOST_POINTS:,}")
    names = tuple(name for name in AXES if any(name in axes for axes in expanded))
    where = _conditions(path, "where", tables.get("where"), names)
    exclude = _conditions(path, "exclude", tables.get("exclude"), names)
    points: dict[tuple[Plain, ...], Point] = {}  # by labels; grids may overlap
    unused = {f"{key}.{i}" for key, of in (("where", where), ("exclude", exclude)) for i in range(len(of))}
    for point in itertools.chain.from_iterable(_points(axes, names) for axes in expanded):
        met = {f"where.{i}" for i, condition in enumerate(where) if _matches(point, condition)}
        refused = {f"exclude.{i}" for i, condition in enumerate(exclude) if _matches(point, condition)}
        unused -= met | refused
        if (met or not where) and not refused:
            points.setdefault(tuple(point.labels.values()), point)
    if unused:
        raise FileError(path, min(unused), "matches no point of the grid")
    if not points:
        raise FileError(path, "grid", "no point is left; check [[where]] and [[exclude]]")
    return Study(path, name, names, tuple(points.values()))


def _tables(path: Path, key: str, written: object) -> Sequence[Mapping[str, Any]]:
    if written is None:
        return []
    tables: list[Any] = written if isinstance(written, list) else [written]
    if not all(isinstance(table, dict) for table in tables):
        raise FileError(path, key, f"write a table, [{key}] or [[{key}]]")
    return tables


def _axes(path: Path, where: str, grid: Mapping[str, Any]) -> dict[str, list[Value]]:
    """The values of each axis of a grid, file names resolved."""
    axes = {}
    for name, written in grid.items():
        try:
            axis = axis_named(name)
            axes[name] = [_beside(path, axis, value) for value in values_of(axis, written)]
        except ValueError as error:
            raise FileError(path, f"{where}.{name}", str(error)) from None
    missing = [name for name in REQUIRED if name not in axes]
    if missing:
        raise FileError(path, f"{where}.{missing[0]}", "missing")
    return axes


def _beside(path: Path, axis: Axis, value: Value) -> Value:
    """The value with its absolute path if it names a file, beside the study file or else in the current folder."""
    if axis.is_file and isinstance(value.value, str):
        for folder in (path.parent, Path()):
            file = folder / value.value
            if file.is_file():
                return Value(value.label, str(file.resolve()))
    return value


def _points(axes: Mapping[str, Sequence[Value]], names: Sequence[str]) -> Iterator[Point]:
    defaults = {name: axis.default for name, axis in AXES.items() if axis.default is not None}
    for values in itertools.product(*axes.values()):
        at = dict(zip(axes, values, strict=True))
        settings = defaults | {name: value.value for name, value in at.items()}
        labels = {name: at[name].label if name in at else settings[name] for name in names}
        yield Point(settings, labels)


def _conditions(path: Path, key: str, written: object, names: Sequence[str]) -> Sequence[_Condition]:
    """The conditions `[[where]]` or `[[exclude]]`, checked."""
    conditions = _tables(path, key, written)
    for i, condition in enumerate(conditions):
        if not condition:
            raise FileError(path, f"{key}.{i}", "has no key; write axes and their values")
        for name, wanted in condition.items():
            if name not in names:
                raise FileError(path, f"{key}.{i}.{name}", f"no axis of the grid; its axes: {', '.join(names)}")
            for one in wanted if isinstance(wanted, list) else [wanted]:
                try:
                    _accepts(one, Value(0, 0) if AXES[name].ranges else Value("", ""))
                except ValueError as error:
                    raise FileError(path, f"{key}.{i}.{name}", str(error)) from None
    return conditions


def _matches(point: Point, condition: _Condition) -> bool:
    return all(
        any(
            _accepts(one, Value(point.labels[name], point.settings[name]))
            for one in (wanted if isinstance(wanted, list) else [wanted])
        )
        for name, wanted in condition.items()
    )


def _accepts(wanted: object, value: Value) -> bool:
    """Whether a value of a condition is that of a point, or a range around it. Raises ValueError."""
    if isinstance(wanted, dict | list):
        raise ValueError("write a value, a list of values, or a range such as '8..64'")
    if isinstance(wanted, str) and ".." in wanted and _is_number(value.value):
        low, _, high = wanted.partition("..")
        try:
            ends = float(low or "-inf"), float(high or "inf")
        except ValueError:
            raise ValueError(f"{wanted!r}: write a range such as '8..64', '8..' or '..64'") from None
        return ends[0] <= float(value.value) <= ends[1]
    same_kind = isinstance(wanted, bool) == isinstance(value.value, bool)
    return same_kind and (wanted == value.label or wanted == value.value)


def _is_number(value: Plain) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
