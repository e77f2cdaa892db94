"""Two runs compared, step by step: which steps changed, by how much, and which part of them did.

A run is the JSON of `project`, `plan` or `replay`, or rows of a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dessim.errors import FileError
from dessim.files import read_json
from dessim.results.changes_figure import changes
from dessim.results.labels import bound_label
from dessim.results.pages import blocks as b
from dessim.results.pages.blocks import Block, Cell, Column, Figure, Page, Section, Table, Text
from dessim.results.rows import Row
from dessim.results.style import strategy_label
from dessim.units import format_time, percent

PARTS = {"compute_s": "compute", "exposed_comm_s": "exposed communication", "idle_s": "idle"}
SAME = 1e-9
"""Relative difference below which two steps are the same."""
_WRITTEN = "write it with --json of `dessim project`, `plan` or `replay`"


@dataclass(frozen=True, slots=True)
class Earlier:
    """The steps of an earlier run: `name` of its file, `facts` (model, cluster) and rows with the keys of `_step`."""

    name: str
    facts: Mapping[str, str]
    rows: Sequence[Row]


def load_earlier(path: Path, command: str) -> Earlier:
    """Read the JSON of an earlier run of `command`. Raises FileError for anything else."""
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema_version") != 1:
        raise FileError(path, "", f"is no result of dessim: {_WRITTEN}")
    kind = next((name for name, key in _KEYS.items() if key in found), None)
    if kind != command:
        what = f"is a result of `dessim {kind}`" if kind else "holds no steps"
        raise FileError(path, "", f"{what}; compare with one of `dessim {command} --json`")
    if found.get("partial"):
        raise FileError(path, "", "is a partial result: the run ended early; run it again with a larger --time-budget")
    try:
        rows = steps_of(found)
        facts = _facts(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        raise FileError(path, "", f"is damaged ({type(error).__name__}: {error}); {_WRITTEN}") from None
    return Earlier(path.name, facts, rows)


_KEYS = {"project": "projection", "plan": "scales", "replay": "predicted_step_s"}


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    return {key: _text(result[key]) for key in ("model", "cluster") if key in result}


def steps_of(result: Mapping[str, Any]) -> list[Row]:
    """The steps of a result: `gpus`, `strategy`, `step_time_s`, its parts and `bound_by`. Misfits are left out."""
    if "projection" in result:
        return [_step(row, row["gpus"], row["strategy"]) for row in result["projection"] if not row["does_not_fit"]]
    if "scales" in result:
        return [_step(scale["plans"][0], scale["gpus"], "best plan") for scale in result["scales"]]
    return [_step({**result, "step_time_s": result["predicted_step_s"]}, result["ranks"], result["strategy"])]


def _step(row: Row, gpus: Any, case: Any) -> Row:
    """A step; `case` names what is compared, as the strategy of the best plan may change."""
    return {
        "gpus": _count(gpus),
        "case": _text(case),
        "strategy": _text(row["strategy"]),
        "batch": _count(row["batch"]) if "batch" in row else None,
        "step_time_s": _seconds(row["step_time_s"], least=1e-15),
        **{part: _seconds(row[part]) for part in PARTS},
        "bound_by": _text(row["bound_by"]),
    }


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a name is no text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TypeError("a number of GPUs or samples is no whole number")
    return value


def _seconds(value: Any, least: float = 0.0) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < math.inf:
        raise TypeError("a time is no number of seconds")
    return float(value)


def comparison(earlier: Earlier, result: Mapping[str, Any]) -> Section:
    """The section that compares a result with an earlier one."""
    return Section("Compared with the earlier run", compared(earlier, steps_of(result), _facts(result)))


def compared(earlier: Earlier, now: Sequence[Row], facts: Mapping[str, str]) -> list[Block]:
    """Blocks that compare the steps `now` with earlier ones: sentences, the figure and the table of changes."""
    before = {_case(row): row for row in earlier.rows}
    pairs = [(before[_case(row)], row) for row in now if _case(row) in before]
    found: list[Block] = [Text(said) for said in _different(earlier, facts)]
    if not pairs:
        return [*found, Text(f"{earlier.name} and this run have no step in common.")]
    found.append(Text(summary(pairs, earlier.name)))
    differing = [pair for pair in pairs if abs(_change(pair)) > SAME]
    if differing:
        caption = (
            "The change of each step since the earlier run, by part: to the right longer, to the left shorter. Of more "
            "than 16 steps, those that changed most."
        )
        found.append(Figure.of(changes([_delta(pair) for pair in differing]), caption))
    found.append(_table(pairs))
    gone = [row for row in earlier.rows if _case(row) not in {_case(n) for n in now}]
    new = [row for row in now if _case(row) not in before]
    for rows, where in ((gone, f"Only in {earlier.name}"), (new, "Only in this run")):
        if rows:
            found.append(Text(f"{where}: {'; '.join(map(_name, rows))}."))
    return found


def summary(pairs: Sequence[tuple[Row, Row]], name: str) -> str:
    """One sentence: how many steps changed, the median and the largest change."""
    values = [_change(pair) for pair in pairs]
    slower, faster = sum(v > SAME for v in values), sum(v < -SAME for v in values)
    if not slower and not faster:
        return f"All {len(pairs):,} steps are those of {name}." if len(pairs) > 1 else f"The step is that of {name}."
    largest = max(pairs, key=lambda pair: abs(_change(pair)))
    if len(pairs) == 1:
        return f"The step changed by {percent(values[0], signed=True)} since {name}, mostly in {_mostly(largest)}."
    median_change, largest_change = percent(median(values), signed=True), percent(_change(largest), signed=True)
    return (
        f"Of {b.counted(len(pairs), 'step')} in both runs, {slower or 'none'} became longer since {name} and "
        f"{faster or 'none'} shorter; the median change is {median_change}, the largest {largest_change} "
        f"({_name(largest[1])}), mostly in {_mostly(largest)}."
    )


def _different(earlier: Earlier, facts: Mapping[str, str]) -> list[str]:
    """Sentences on what the two runs do not share."""
    return [
        f"The {key} differs: {earlier.facts[key]} in {earlier.name}, {facts[key]} here."
        for key in facts
        if key in earlier.facts and earlier.facts[key] != facts[key]
    ]


def _table(pairs: Sequence[tuple[Row, Row]]) -> Table:
    columns = (
        *(Column("GPUs", choose=True), Column("strategy", left=True, choose=True), Column("before"), Column("now")),
        *(Column("change"), *map(Column, PARTS.values()), Column("bound by, before → now", left=True, wide=True)),
    )
    cells = [
        [
            b.whole(now["gpus"]),
            _strategies(before, now),
            b.time(before["step_time_s"]),
            b.time(now["step_time_s"]),
            _changed(before, now),
            *(_difference(now[part] - before[part], now["step_time_s"]) for part in PARTS),
            Cell(_bounds(before["bound_by"], now["bound_by"])),
        ]
        for before, now in pairs
    ]
    return Table("Steps in both runs", columns, cells, "Change of the whole step in per cent, of its parts in time.")


def _changed(before: Row, now: Row) -> Cell:
    value = _change((before, now))
    if abs(value) <= SAME:
        return Cell("same", sort=0.0, tag="plain")
    return Cell(percent(value, signed=True), sort=value, tag="bad" if value > 0 else "good")


def _difference(seconds: float, step: float) -> Cell:
    if abs(seconds) <= SAME * step:
        return Cell("same", sort=0.0)
    return Cell(f"{'+' if seconds > 0 else '−'}{format_time(abs(seconds), 3)}", sort=seconds)


def _bounds(before: str, now: str) -> str:
    return bound_label(now) if before == now else f"{bound_label(before)} → {bound_label(now)}"


def _strategies(before: Row, now: Row) -> Cell:
    if before["strategy"] == now["strategy"]:
        return b.strategy(now["strategy"], _batches(before, now))
    return Cell(f"{strategy_label(before['strategy'])} → {strategy_label(now['strategy'])}{_batches(before, now)}")


def _batches(before: Row, now: Row) -> str:
    """A mark for steps of different batches, whose times cannot be compared."""
    if before["batch"] == now["batch"] or None in (before["batch"], now["batch"]):
        return ""
    return f", batch {before['batch']:,} → {now['batch']:,}"


def _case(row: Row) -> tuple[Any, ...]:
    return row["gpus"], row["case"]


def _name(row: Row) -> str:
    return f"{strategy_label(row['strategy'])} on {b.counted(row['gpus'], 'GPU')}"


def _change(pair: tuple[Row, Row]) -> float:
    return float(pair[1]["step_time_s"] / pair[0]["step_time_s"] - 1)


def _mostly(pair: tuple[Row, Row]) -> str:
    """The part that changed most."""
    before, now = pair
    return PARTS[max(PARTS, key=lambda part: round(abs(now[part] - before[part]) / now["step_time_s"], 9))]


def _delta(pair: tuple[Row, Row]) -> Row:
    before, now = pair
    return {
        "gpus": now["gpus"],
        "strategy": now["strategy"],
        "label": _name(now),
        "before_s": before["step_time_s"],
        "now_s": now["step_time_s"],
        **{part: now[part] - before[part] for part in PARTS},
    }


def comparison_page(earlier: Earlier, now: Earlier, command: str) -> Page:
    """The page that compares two runs: B (`now`) with A (`earlier`)."""
    sections = compared(earlier, now.rows, now.facts)
    said = [block.text for block in sections if isinstance(block, Text)]
    return Page(
        title=f"{now.name} compared with {earlier.name}",
        question="Which steps changed, and which part of them?",
        answer=[said[-1] if len(said) == 1 else " ".join(said[:2])],
        asked=[
            ("command", command),
            *((f"{key} of {run.name}", v) for run in (earlier, now) for key, v in run.facts.items()),
        ],
        sections=[Section("Steps", [block for block in sections if not isinstance(block, Text)])],
    )
