"""Parts of error messages that all packages share: suggested names, and words for the mistakes that pydantic finds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

_MOST_NAMES = 3
_KINDS = {"int": "a whole number", "float": "a number", "string": "a text in quotes", "bool": "true or false"}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean X? `, with a blank at the end; empty where no `known` name is like `name`."""
    likely = like(name, known)
    return f"did you mean {' or '.join(likely)}? " if likely else ""


def choose_from(name: str, known: Iterable[str]) -> str:
    """`did you mean X? choose from X, Y`, for a `name` that is not among the `known` ones."""
    names = list(known)
    return f"{did_you_mean(name, names)}choose from {', '.join(names)}"


def like(name: str, known: Iterable[str]) -> list[str]:
    """The `known` name that is spelled almost as `name` is, or else up to three that begin as it does.

    Hyphens, blanks and the case of letters make no difference.
    """
    plain = {_plain(one): one for one in known}
    close = difflib.get_close_matches(_plain(name), plain, n=1)
    begun = [one for one in plain if name and one.startswith(_plain(name))]
    return [plain[one] for one in close or begun[:_MOST_NAMES]]


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def in_words(mistake: Mapping[str, Any]) -> str:
    """The words for a mistake, an entry of `ValidationError.errors()`: what is wrong, or what to write."""
    kind, _, problem = mistake["type"].rpartition("_")
    match mistake["type"]:
        case "missing":
            return "missing"
        case "extra_forbidden":
            return "unknown key"
    if kind in _KINDS and problem in ("type", "parsing", "from_float"):
        return f"write {_KINDS[kind]}"
    return str(mistake["msg"]).removeprefix("Value error, ")
