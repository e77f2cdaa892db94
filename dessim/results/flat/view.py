"""The base classes of results: attributes from the keys of a JSON object, and DataFrames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    import pandas as pd

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The typed form of an object of `--json`."""

    _json: Values = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, values: Values) -> Self:
        """The result that an object of `--json` states."""
        named = {part.name: values[part.name] for part in fields(cls) if part.name in values}
        return cls(**named | cls._nested(values), _json=values)

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        """Attributes that are not simply a value of the object."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """The object of `--json`: plain values, units in the keys."""
        return dict(self._json)

    def _cells(self) -> dict[str, Any]:
        """The attributes that fit a cell of a table."""
        named = {part.name: getattr(self, part.name) for part in fields(self)}
        return {n: value for n, value in named.items() if n[0] != "_" and not isinstance(value, (Mapping, tuple))}


Row = TypeVar("Row", bound=View)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(View, Generic[Row]):
    """A result with rows, which is a sequence of them."""

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Row:
        return self.rows[number]

    def to_frame(self) -> pd.DataFrame:
        """One line a row, with the result's own values in front."""
        return frame([self._cells() | row._cells() for row in self.rows])


def frame(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A DataFrame of `lines`, by column."""
    import pandas as pd

    return pd.DataFrame(list(lines))


def interval(values: Values) -> dict[str, float | None]:
    """The ends of the 80 % interval of a time, None where it has none."""
    ends = values["interval"] or {}
    return {"low_s": ends.get("low_s"), "high_s": ends.get("high_s")}
