"""Makes docs/api.md from the docstrings of the public names: `python -m dessim.api.page > docs/api.md`.

`surface` lists the same names with their signatures and fields as plain text, for the test that keeps them stable.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import dessim
from dessim.api import regression
from dessim.deprecation import NEXT

_SECTIONS = {
    "Loading": ("load_cluster", "load_model", "load_trace"),
    "Studies": ("project", "replay", "plan_job", "collective", "goodput"),
    "Regression tests": ("record", "check", "assert_unchanged"),
    "Results": (
        *("ProjectResult", "StepRow", "MisfitRow", "OpRow", "PathRow", "WhatIfRow", "ReplayResult"),
        *("PlanResult", "PlanRow", "PlanStepRow", "TableRow", "CollectiveResult", "GoodputResult", "GoodputRow"),
        *("CheckResult", "StepChange", "OpChange"),
    ),
    "Inputs": ("Cluster", "Model", "Trace", "Job", "Progress"),
    "Errors": (
        *("DessimError", "UsageError", "UnitError", "FileError", "ClusterError", "ModelError", "TraceError"),
        *("CapacityError", "SimulationError", "OutOfTime"),
    ),
}
_INTRODUCTION = f"""\
# Python API

<!-- Made by python -m dessim.api.page from docstrings; edit those. -->

    import dessim

Every name on this page is public and stable: a test pins its signature or fields. Before a
name is removed, it warns for one release (`DeprecationWarning`); those that warn now are removed in {NEXT}. Everything
else in the package may change at any time. The package is typed (`py.typed`), and its examples below run as tests.

A job or a cluster is given as the name of a shipped one, as a file, or as a loaded object. Each study is also a
command, and its result's `to_json()` is the object that the command prints with `--json`. Errors are subclasses of
`DessimError`; their messages name the options of the command.
"""
_NOTES = {
    "Results": "Results are frozen dataclasses with `to_json()`; `from_json(...)` reads what a command printed with "
    "`--json`. Results with rows are sequences of them. `ProjectResult`, `ReplayResult`, `PlanResult`, "
    "`CollectiveResult` and `GoodputResult` have `to_frame()`, a pandas DataFrame with one line for each row.",
    "Inputs": "Loaded by the functions above; their other attributes are not public.",
}
_PUBLIC = {
    "Cluster": ("name", "n_gpus", "n_nodes", "gpu", "with_gpu", "with_links"),
    "Model": ("name", "input", "tables"),
    "Trace": ("problems",),
    "Job": ("of_model", "of_trace"),
    "Progress": ("__init__",),
}
"""The public attributes of classes that are not results."""
_DEPRECATED = {
    "project(..., servers=None)": '`servers="ideal"`',
    "StepRow.breakdown": "the attributes of the row",
}
"""Deprecated arguments and attributes, and what replaces them."""


def page() -> str:
    """The text of docs/api.md."""
    parts = [_INTRODUCTION]
    for section, names in _SECTIONS.items():
        parts.append(f"## {section}\n")
        if section == "Regression tests":
            parts.append(_prose(inspect.getdoc(regression) or ""))
        if section in _NOTES:
            parts.append(_NOTES[section] + "\n")
        parts += [_entry(name, getattr(dessim, name)) for name in names]
    parts.append("## Deprecated\n")
    names_and_others = {f"dessim.{name}": instead for name, (_, instead) in dessim._DEPRECATED.items()} | _DEPRECATED
    parts.append("\n".join(f"- `{old}`: use {new}" for old, new in names_and_others.items()))
    return "\n".join(parts) + "\n"


def surface() -> str:
    """One line for each public name, field and public attribute."""
    lines: list[str] = []
    for name in sorted(dessim.__all__):
        value = getattr(dessim, name)
        lines.append(_signature(name, value) if inspect.isfunction(value) else _bases(name, value))
        lines += [f"    {line}" for line in _attributes(name, value)]
    return "\n".join([*lines, *(f"deprecated: {name}" for name in dessim._DEPRECATED)]) + "\n"


def _entry(name: str, value: Any) -> str:
    shown = [f"### {name}\n"]
    if inspect.isfunction(value):
        shown.append(f"```python\n{_signature(name, value, wrapped=True)}\n```\n")
    text = inspect.getdoc(value) or ""
    if name in _PUBLIC and "__init__" not in _PUBLIC[name]:
        text = text.partition("\n\n")[0]  # the rest describes attributes that are not public
    shown.append(_prose(text))
    if attributes := list(_attributes(name, value)):
        shown.append("".join(f"- `{line}`\n" for line in attributes))
    return "\n".join(shown)


def _signature(name: str, function: Any, wrapped: bool = False) -> str:
    """The signature on one line, or with each argument on its own line."""
    parameters: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        parameters.append(f"{parameter.name}: {parameter.annotation}{default}")
    returned = inspect.signature(function).return_annotation
    if wrapped:
        inner = "".join(f"    {parameter},\n" for parameter in parameters)
        return f"{name}(\n{inner}) -> {returned}"
    return f"{name}({', '.join(parameters)}) -> {returned}"


def _bases(name: str, value: type) -> str:
    public = [base.__name__ for base in value.__mro__[1:] if base.__name__ in dessim.__all__]
    return f"{name}({', '.join(public)})"


def _attributes(name: str, value: Any) -> Iterator[str]:
    """Fields with their types, and public methods and properties of a class."""
    if not inspect.isclass(value) or issubclass(value, BaseException):
        return
    if name in _PUBLIC:
        for attribute in _PUBLIC[name]:
            member = inspect.getattr_static(value, attribute, None)
            function = getattr(member, "__func__", member)
            label = name if attribute == "__init__" else attribute
            yield _method(label, function) if inspect.isfunction(function) else attribute
        return
    if is_dataclass(value):
        yield from (f"{part.name}: {part.type}" for part in fields(value) if part.name[0] != "_")
    for attribute, member in inspect.getmembers_static(value):
        if attribute[0] == "_" or attribute in ("from_json", "to_json"):
            continue
        if isinstance(member, property) and member.fget is not None and "deprecated" not in (member.__doc__ or ""):
            yield f"{attribute}: {inspect.signature(member.fget).return_annotation}"
        elif inspect.isfunction(member):
            yield _method(attribute, member)


def _method(name: str, function: Any) -> str:
    text = _signature(name, function).replace("(self: <class 'inspect._empty'>, ", "(")
    text = text.replace("(self: <class 'inspect._empty'>)", "()").replace("(cls: <class 'inspect._empty'>, ", "(")
    return text.removesuffix(" -> None")


def _prose(docstring: str) -> str:
    """A docstring as Markdown: examples as code, the rest as it is."""
    blocks = re.split(r"\n\n", docstring)
    return "\n".join(f"```python\n{block}\n```\n" if block.startswith(">>>") else f"{block}\n" for block in blocks)


if __name__ == "__main__":
    sys.stdout.write(page())
