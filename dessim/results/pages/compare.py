"""Two runs compared, step by step: which steps changed, by how much, and which part of them did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from dessim.results.changes_figure import changes
from dessim.results.labels import bound_label
from dessim.results.pages import blocks as b
from dessim.results.pages.blocks import Block, Cell, Column, Figure, Page, Section, Table, Text
from dessim.results.pages.earlier import PARTS, Earlier, facts_of, steps_of
from dessim.results.pages.question import Asked
from dessim.results.pages.rows import rows_table
from dessim.results.rows import Row
from dessim.results.style import strategy_label
from dessim.units import format_time, percent

SAME = 1e-9
"""Relative difference below which two steps are the same."""


def comparison(earlier: Earlier, result: Mapping[str, Any]) -> Section:
    """The section that compares a result with an earlier one."""
    return Section("Compared with the earlier run", compared(earlier, steps_of(result), facts_of(result)))


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
        longer = f"{percent(abs(values[0]))} {'longer' if values[0] > 0 else 'shorter'}"
        return f"The step became {longer} since {name}, mostly in {_mostly(largest)}."
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
        *(Column("change"), *map(Column, PARTS.values()), Column("mostly from", left=True, wide=True)),
        Column("bound by, before → now", left=True, wide=True),
    )
    cells = [
        [
            b.whole(now["gpus"]),
            _strategies(before, now),
            b.time(before["step_time_s"]),
            b.time(now["step_time_s"]),
            _changed(before, now),
            *(_difference(now[part] - before[part], now["step_time_s"]) for part in PARTS),
            Cell(_op(before, now)),
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


def _op(before: Row, now: Row) -> str:
    """The op whose time on the critical path changed most in the direction of the step: `rows, +1.2 ms`."""
    change = now["step_time_s"] - before["step_time_s"]
    if abs(change) <= SAME * now["step_time_s"]:
        return ""
    names = dict.fromkeys([*before["ops"], *now["ops"]])
    grown = {name: now["ops"].get(name, 0.0) - before["ops"].get(name, 0.0) for name in names}
    sign = 1 if change > 0 else -1
    most = max(grown, key=lambda name: round(sign * grown[name] / now["step_time_s"], 9), default="")
    if abs(grown.get(most, 0.0)) <= SAME * now["step_time_s"]:
        return ""
    return f"{most}, {_difference(grown[most], now['step_time_s']).text}"


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


def differences_page(found: Mapping[str, Any], before: str, after: str, asked: Asked) -> Page:
    """The page of `dessim report BEFORE AFTER`: its JSON, with every case that became slower or faster."""
    slower, faster, status = found["slower"], found["faster"], found["status"]
    compared = len(slower) + len(faster) + len(status) + found["same"]
    answer = [
        f"Of {b.counted(compared, 'case')} in both runs, {len(slower) or 'none'} became slower and "
        f"{len(faster) or 'none'} faster by more than {percent(found['beyond'])}."
    ]
    answer += [
        f"The {axis} differs: {one} in {before}, {other} in {after}." for axis, (one, other) in found["changed"].items()
    ]
    sections = [
        Section(title, [_differences(title, rows)]) for title, rows in (("Slower", slower), ("Faster", faster)) if rows
    ]
    if status:
        rows = [{**row["case"], "before": row["before"], "after": row["after"]} for row in status]
        sections.append(Section("Another status", [rows_table(rows, "Cases with another status")]))
    for title, cases in ((f"Only in {before}", found["only_before"]), (f"Only in {after}", found["only_after"])):
        if cases:
            sections.append(Section(title, [rows_table(cases, title)]))
    return Page(f"{after} compared with {before}", "Which cases became slower or faster?", answer, asked, sections)


def _differences(title: str, rows: Sequence[Row]) -> Table:
    """Cases that changed, with the columns of their axes."""
    axes = list(rows[0]["case"])
    of_axes = rows_table([row["case"] for row in rows])
    assert isinstance(of_axes, Table)  # there are rows
    columns = (
        *of_axes.columns,
        *(Column("before"), Column("after"), Column("change"), Column("mostly from", left=True, wide=True)),
    )
    cells = [
        [
            *of_axes.rows[n],
            b.time(row["before_s"]),
            b.time(row["after_s"]),
            _changed({"step_time_s": row["before_s"]}, {"step_time_s": row["after_s"]}),
            b.text(
                f"{row['mostly']}, {_difference(row['by_op_s'][row['mostly']], row['after_s']).text}"
                if row["mostly"]
                else None
            ),
        ]
        for n, row in enumerate(rows)
    ]
    return Table(f"{title} cases", columns, cells, f"By {', '.join(axes)}. Mostly from: the op that changed most.")
