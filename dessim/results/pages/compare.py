"""Two runs compared, step by step: which steps changed, by how much, and which part of them did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dessim.results.changes_figure import changes
from dessim.results.labels import bound_label
from dessim.results.pages import blocks as b
from dessim.results.pages.blocks import Block, Cell, Column, Figure, Page, Section, Table, Text
from dessim.results.pages.earlier import PARTS, Earlier, facts_of, steps_of
from dessim.results.pages.question import Asked
from dessim.results.pages.rows import column_title, rows_table
from dessim.results.rows import Row
from dessim.results.step_change import SAME, StepDifference
from dessim.results.style import strategy_label
from dessim.units import counted, format_time, percent


@dataclass(frozen=True, slots=True)
class _Pair:
    """A step in both runs: its rows (`steps_of`), and the difference of its times."""

    before: Row
    now: Row

    @property
    def step(self) -> StepDifference:
        return StepDifference(self.before["step"], self.now["step"])

    @property
    def share(self) -> float:
        return self.step.share

    def grown(self, part: str) -> float:
        """The seconds by which a part of the step grew."""
        return float(self.now[part] - self.before[part])


def comparison(earlier: Earlier, result: Mapping[str, Any]) -> Section:
    """The section that compares a result with an earlier one."""
    return Section("Compared with the earlier run", compared(earlier, steps_of(result), facts_of(result)))


def compared(earlier: Earlier, now: Sequence[Row], facts: Mapping[str, str]) -> list[Block]:
    """Blocks that compare the steps `now` with earlier ones: sentences, the figure and the table of changes."""
    before = {_case(row): row for row in earlier.rows}
    pairs = [_Pair(before[_case(row)], row) for row in now if _case(row) in before]
    blocks: list[Block] = [Text(said) for said in _different(earlier, facts)]
    if not pairs:
        return [*blocks, Text(f"{earlier.name} and this run have no step in common.")]
    blocks.append(Text(summary(pairs, earlier.name)))
    differing = [pair for pair in pairs if not pair.step.is_same]
    if differing:
        caption = (
            "The change of each step since the earlier run, by part: to the right longer, to the left shorter. Of more "
            "than 16 steps, those that changed most."
        )
        blocks.append(Figure.of(changes([_delta(pair) for pair in differing]), caption))
    blocks.append(_table(pairs))
    gone = [row for row in earlier.rows if _case(row) not in {_case(n) for n in now}]
    new = [row for row in now if _case(row) not in before]
    for rows, where in ((gone, f"Only in {earlier.name}"), (new, "Only in this run")):
        if rows:
            blocks.append(Text(f"{where}: {'; '.join(map(_name, rows))}."))
    return blocks


def summary(pairs: Sequence[_Pair], name: str) -> str:
    """One sentence: how many steps changed, the median and the largest change."""
    values = [pair.share for pair in pairs]
    slower = sum(v > SAME for v in values)
    faster = sum(v < -SAME for v in values)
    if not slower and not faster:
        steps = f"All {len(pairs):,} steps are" if len(pairs) > 1 else "The step is"
        return f"{steps} the same as in {name}."
    largest = max(pairs, key=lambda pair: abs(pair.share))
    if len(pairs) == 1:
        longer = f"{percent(abs(values[0]))} {'longer' if values[0] > 0 else 'shorter'}"
        return f"The step became {longer} since {name}, mostly in {_mostly(largest)}."
    median_change = percent(median(values), signed=True)
    largest_change = percent(largest.share, signed=True)
    return (
        f"Of {counted(len(pairs), 'step')} in both runs, {slower or 'none'} became longer since {name} and "
        f"{faster or 'none'} shorter; the median change is {median_change}, the largest {largest_change} "
        f"({_name(largest.now)}), mostly in {_mostly(largest)}."
    )


def _different(earlier: Earlier, facts: Mapping[str, str]) -> list[str]:
    """Sentences on what the two runs do not share."""
    return [
        f"The {key} differs: {earlier.facts[key]} in {earlier.name}, {facts[key]} here."
        for key in facts
        if key in earlier.facts and earlier.facts[key] != facts[key]
    ]


def _table(pairs: Sequence[_Pair]) -> Table:
    columns = (
        *(Column("GPUs", choose=True), Column("strategy", left=True, choose=True), Column("before"), Column("now")),
        *(Column("change"), *map(Column, PARTS.values()), Column("mostly from", left=True, wide=True)),
        Column("bound by, before → now", left=True, wide=True),
    )
    cells = []
    for pair in pairs:
        step = pair.step
        cells.append(
            [
                b.whole(pair.now["gpus"]),
                _strategies(pair.before, pair.now),
                b.time(step.before.time_s),
                b.time(step.now.time_s),
                _changed(step.share),
                *(_difference(pair.grown(part), step.now.time_s) for part in PARTS),
                Cell(_op(step.mostly, step.by_op_s, step.now.time_s)),
                Cell(_bounds(step.before.bound_by, step.now.bound_by)),
            ]
        )
    return Table("Steps in both runs", columns, cells, "Change of the whole step in per cent, of its parts in time.")


def _changed(share: float) -> Cell:
    if abs(share) <= SAME:
        return Cell("same", sort=0.0, tag="plain")
    return Cell(percent(share, signed=True), sort=share, tag="bad" if share > 0 else "good")


def _difference(seconds: float, step: float) -> Cell:
    if abs(seconds) <= SAME * step:
        return Cell("same", sort=0.0)
    return Cell(f"{'+' if seconds > 0 else '−'}{format_time(abs(seconds), 3)}", sort=seconds)


def _op(name: str, by_op_s: Mapping[str, float], step: float) -> str:
    """The op that changed most, and by how much: `rows, +1.2 ms`; empty without one."""
    return f"{name}, {_difference(by_op_s[name], step).text}" if name else ""


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
    return f"{strategy_label(row['strategy'])} on {counted(row['gpus'], 'GPU')}"


def _mostly(pair: _Pair) -> str:
    """The part that changed most."""
    return PARTS[max(PARTS, key=lambda part: round(abs(pair.grown(part)) / pair.step.now.time_s, 9))]


def _delta(pair: _Pair) -> Row:
    return {
        "gpus": pair.now["gpus"],
        "strategy": pair.now["strategy"],
        "label": _name(pair.now),
        "before_s": pair.step.before.time_s,
        "now_s": pair.step.now.time_s,
        **{part: pair.grown(part) for part in PARTS},
    }


def differences_page(comparison: Mapping[str, Any], before: str, after: str, asked: Asked) -> Page:
    """The page of `dessim report BEFORE AFTER`: its JSON, with every case that became slower or faster."""
    slower = comparison["slower"]
    faster = comparison["faster"]
    status = comparison["status"]
    compared = len(slower) + len(faster) + len(status) + comparison["same"]
    answer = [
        f"Of {counted(compared, 'case')} in both runs, {len(slower) or 'none'} became slower and "
        f"{len(faster) or 'none'} faster by more than {percent(comparison['beyond'])}."
    ]
    answer += [
        f"The {axis} differs: {one} in {before}, {other} in {after}."
        for axis, (one, other) in comparison["changed"].items()
    ]
    sections = [
        Section(title, [_differences(title, rows)]) for title, rows in (("Slower", slower), ("Faster", faster)) if rows
    ]
    if status:
        rows = [{**row["case"], "before": row["before"], "after": row["after"]} for row in status]
        sections.append(Section("Another status", [rows_table(rows, "Cases with another status")]))
    runs = ((f"Only in {before}", comparison["only_before"]), (f"Only in {after}", comparison["only_after"]))
    for title, cases in runs:
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
        Column("bound by, before → after", left=True, wide=True),
    )
    cells = [
        [
            *of_axes.rows[n],
            b.time(row["before_s"]),
            b.time(row["after_s"]),
            _changed(row["change"]),
            b.text(_op(row["mostly"], row["by_op_s"], row["after_s"]) or None),
            b.text(_bounds(row["bound_by_before"], row["bound_by_after"]) or None),
        ]
        for n, row in enumerate(rows)
    ]
    note = f"By {', '.join(map(column_title, axes))}. Mostly from: the op that changed most."
    return Table(f"{title} cases", columns, cells, note)
