"""The axes of a study file, and how their values are written.

    cluster = "h100-8x_rail_128"                          # one value
    strategy = ["des_all_reduce", "table_wise"]           # a list
    gpus = "8..1024"                                      # doubles from 8 up to 1024
    batch = {from = 1024, to = 8192, step = 1024}         # or `factor` in place of `step`
    cluster = [{name = "ours", value = "mine.toml"}]      # `name` is what the results call the value

An axis is an option of `dessim project` with underscores, or a quantity of `--what-if`, whose values are factors:

    what_if = ["none", "2x:nic_rate+2x:uplink_rate", "2x:nics"]
    nic_rate = [0.5, 1, 2, 4]                             # the same as what_if = ["0.5x:nic_rate", ...]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dessim.arrays import significant
from dessim.commands.questions.what_if import MAY_BE_ZERO, NAMES
from dessim.commands.support.server_defaults import AUTO, IDEAL, SERVER_DEVICE
from dessim.wording import did_you_mean

Plain = str | int | float | bool
NONE = "none"
"""The value of an axis that leaves its option out."""
_MOST_VALUES = 100_000
_LARGEST = 10**18


@dataclass(frozen=True, slots=True)
class Value:
    """A value of an axis, and the label that results show for it."""

    label: Plain
    value: Plain


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: its column in the results, a check of its values, which raises ValueError, and its default.

    `ranges`: whether values are numbers, which a range may list. `is_file`: whether they name files.
    """

    column: str
    check: Callable[[object], Plain]
    default: Plain | None = None
    ranges: bool = False
    is_file: bool = False


def _text(value: object) -> Plain:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("write a text in quotes")
    return value.strip()


def _count(value: object) -> Plain:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LARGEST:
        raise ValueError("write a whole number of at least 1")
    return value


def _seed(value: object) -> Plain:
    return 0 if value == 0 and not isinstance(value, bool) else _count(value)


def _count_or_none(value: object) -> Plain:
    return NONE if value == NONE else _seed(value)


def _batch(value: object) -> Plain:
    if isinstance(value, str):
        number, slash, unit = value.partition("/")
        if not slash or unit != "gpu" or not (number.isascii() and number.isdecimal() and len(number) < 19):
            raise ValueError("write the samples of all GPUs, such as 65536, or of each, such as '1024/gpu'")
        _count(int(number))
        return value
    return _count(value)


def _servers(value: object) -> Plain:
    return str(value) if value in (AUTO, IDEAL) else _count(value)


def _switch(value: object) -> Plain:
    if not isinstance(value, bool):
        raise ValueError("write true or false")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError("write a number of at least 0")
    return float(value)


def _factor(name: str) -> Callable[[object], Plain]:
    def check(value: object) -> Plain:
        factor = _number(value)
        if factor == 0 and name not in MAY_BE_ZERO:
            raise ValueError("write a factor above 0, such as 2")
        return factor

    return check


def _one_of(*names: str) -> Callable[[object], Plain]:
    def check(value: object) -> Plain:
        if value not in names:
            raise ValueError(f"{did_you_mean(str(value), names)}write one of {', '.join(names)}")
        return str(value)

    return check


REQUIRED = ("model", "cluster", "strategy", "gpus")
KNOBS = tuple(name for name in NAMES if name != "batch")
"""The quantities of `--what-if` that are axes; the batch is an axis anyway."""
AXES: Mapping[str, Axis] = {
    "model": Axis("model", _text, is_file=True),
    "ids": Axis("ids", _text, NONE, is_file=True),
    "precision": Axis("precision", _text, NONE),
    "cluster": Axis("cluster", _text, is_file=True),
    "transport": Axis("transport", _text, NONE, is_file=True),
    "device": Axis("device", _text, NONE, is_file=True),
    "what_if": Axis("what_if", _text, NONE),
    **{name: Axis(f"{name}_factor", _factor(name), 1.0, ranges=True) for name in KNOBS},
    "strategy": Axis("strategy", _text),
    "gpus": Axis("gpus", _count, ranges=True),
    "batch": Axis("batch_per_gpu", _batch, NONE, ranges=True),
    "codec": Axis("codec", _text, NONE),
    "algorithm": Axis("algorithm", _text, NONE),
    "servers": Axis("servers", _servers, AUTO, ranges=True),
    "server_device": Axis("server_device", _text, SERVER_DEVICE, is_file=True),
    "server_threads": Axis("server_threads", _count, 1, ranges=True),
    "staleness": Axis("staleness_steps", _count_or_none, NONE, ranges=True),
    "jitter": Axis("jitter", _number, 0.0, ranges=True),
    "seed": Axis("seed", _seed, 0, ranges=True),
    "network": Axis("network", _one_of("fluid", "packet"), "fluid"),
    "launch": Axis("launch", _one_of("eager", "graph"), "eager"),
    "spill": Axis("spill", _switch, False),
    "pipeline": Axis("pipeline", _switch, True),
    "faults": Axis("faults", _text, NONE, is_file=True),
}
"""The axes by name."""


def axis_named(name: str) -> Axis:
    """The axis of a name. Raises ValueError, which suggests a name."""
    if name in AXES:
        return AXES[name]
    raise ValueError(f"no such axis; {did_you_mean(name, AXES)}axes: {', '.join(AXES)}")


def values_of(axis: Axis, written: object) -> list[Value]:
    """The values of an axis as a study file writes them. Raises ValueError."""
    if isinstance(written, dict) and "value" not in written:
        return _range(axis, written)
    if isinstance(written, str) and axis.ranges and ".." in written:
        return _doubled(axis, written)
    if not isinstance(written, list):
        return [_value(axis, written)]
    if not written:
        raise ValueError("the list is empty")
    values = [_value(axis, entry) for entry in written]
    labels = [value.label for value in values]
    twice = next((label for i, label in enumerate(labels) if label in labels[:i]), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is listed twice")
    return values


def _value(axis: Axis, written: object) -> Value:
    if isinstance(written, dict):
        unknown = [key for key in written if key not in ("name", "value")]
        label = written.get("name")
        if unknown or "value" not in written or not isinstance(label, str) or not label:
            raise ValueError('write {name = "...", value = ...}')
        return Value(label, axis.check(written["value"]))
    if isinstance(written, list):
        raise ValueError("a list inside a list")
    value = axis.check(written)
    return Value(value, value)


def _doubled(axis: Axis, text: str) -> list[Value]:
    """`8..1024`: 8, 16 and so on up to 1024, which is always listed."""
    ends = text.split("..")
    if len(ends) != 2 or not all(end.isascii() and end.isdecimal() and 0 < len(end) < 19 and int(end) for end in ends):
        raise ValueError(f"{text!r}: write a range such as '8..1024', which doubles")
    low, high = map(int, ends)
    if low > high:
        raise ValueError(f"{text!r}: write the smaller number first")
    numbers = [low * 2**i for i in range((high // low).bit_length())]
    return [_value(axis, number) for number in [*numbers, *([high] if numbers[-1] < high else [])]]


def _range(axis: Axis, table: Mapping[str, Any]) -> list[Value]:
    """`{from, to, step}` or `{from, to, factor}`; `to` is listed if a step ends there."""
    if not axis.ranges:
        raise ValueError("write texts; only axes of numbers have ranges")
    keys = set(table)
    if not ({"from", "to"} < keys and len(keys) == 3 and keys & {"step", "factor"}):
        raise ValueError("write {from = 8, to = 64, step = 8}, or factor = 2 in place of step")
    numbers = {key: table[key] for key in table}
    for key, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{key} = {number!r}: write a number")
    low = numbers["from"]
    high = numbers["to"]
    if low > high:
        raise ValueError(f"from = {low} is more than to = {high}")
    if "step" in keys:
        if numbers["step"] <= 0:
            raise ValueError(f"step = {numbers['step']}: write a number above 0")
        count = math.floor((high - low) / numbers["step"] * (1 + 1e-12)) + 1
        listed = [low + i * numbers["step"] for i in range(min(count, _MOST_VALUES + 1))]
    else:
        factor = numbers["factor"]
        if factor <= 1 or low <= 0:
            raise ValueError("write a factor above 1, and from above 0")
        count = math.floor(math.log(high / low) / math.log(factor) * (1 + 1e-12)) + 1
        listed = [low * factor**i for i in range(min(count, _MOST_VALUES + 1))]
    if len(listed) > _MOST_VALUES:
        raise ValueError(f"{count:,} values; at most {_MOST_VALUES:,}")
    # The digits of a user, without what the sum of binary fractions adds to them.
    return [_value(axis, significant(number, 12) if isinstance(number, float) else number) for number in listed]
