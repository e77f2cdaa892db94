"""Names of a package that are imported on first use, so that importing the package takes no time."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # that of `typing` takes longer to import than the rest that runs before signals are handled
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def finder(package: str, names_of: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names are in other modules: `names_of` lists the names by module."""
    module_of = {name: module for module, names in names_of.items() for name in names}

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(module_of[name]), name)

    return find
