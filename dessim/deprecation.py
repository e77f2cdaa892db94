"""Names that will go: they work for one more release, and warn.

A public name is never removed at once. It first warns for a release, with the name to use instead; tests of this
repository turn these warnings into errors, so nothing here uses such a name.
"""

from __future__ import annotations

import warnings

NEXT = "0.3"
"""The release in which names that are deprecated now are removed."""


def warn(old: str, new: str, depth: int = 0) -> None:
    """Warn, at the line that used `old`, that `new` replaces it.

    `depth`: how many calls the function that calls this one is below that line.
    """
    text = f"{old} is deprecated and will be removed in dessim {NEXT}; use {new}"
    warnings.warn(text, DeprecationWarning, stacklevel=3 + depth)
