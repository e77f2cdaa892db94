"""Values that a command line, a Python call and a file can all state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from dessim.errors import UsageError
from dessim.wording import in_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Numbers, texts, and lists of them, by name. `FILES` are the values that may be the name of a file."""

    FILES: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        """The values that are not the default, as JSON values."""
        values = {part.name: (getattr(self, part.name), _default(part)) for part in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, (value, default) in values.items()
            if value != default
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The values of an object. Raises KeyError for an unknown name, and pydantic's ValidationError."""
        if unknown := set(values) - {part.name for part in fields(cls)}:
            raise KeyError(min(unknown))
        return TypeAdapter(cls).validate_python(dict(values))

    def checked(self) -> Self:
        """The same values, of the right types. Raises UsageError, which names the first of a wrong type."""
        try:
            return TypeAdapter(type(self)).validate_python(
                {part.name: getattr(self, part.name) for part in fields(self)}
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            raise UsageError(f"{name} {first['input']!r}: {in_words(first)}") from None

    def moved(self, move: Callable[[str], str]) -> Self:
        """The same values with other names of files."""
        names = {name: getattr(self, name) for name in self.FILES}
        return replace(self, **{name: move(value) for name, value in names.items() if value is not None})


def _default(part: Field[Any]) -> Any:
    return part.default if part.default_factory is MISSING else part.default_factory()
