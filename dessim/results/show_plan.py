"""The output of `dessim plan`: ranked plans, owners, what they cost at each scale, and the choice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dessim.results.labels import step_bound_label
from dessim.results.show import print_caveats, print_intervals, print_text
from dessim.results.style import family_label, strategy_label
from dessim.results.tables import FASTEST, TIE, print_table, table_of
from dessim.units import counted, format_count, format_size, format_time, percent

Values = Mapping[str, Any]
_RANKED = 8  # plans that are printed; all with --json
_NAMED = 6  # tables of a strategy that are named
_COUNT = re.compile(r"\b\d+ ")
"""The numbers of tables in the name of a composed plan."""


def print_plan(result: Values, names: Sequence[str], out: Path | None, notes: Sequence[str] = ()) -> None:
    """Print the chosen scale's plans, where its tables are, and all scales if there are several.

    `names`: of the model's tables. `out`: the plan file that was written, and `notes` on it.
    """
    scales = result["scales"]
    chosen = chosen_scale(result)
    _print_ranked(chosen)
    best = chosen["plans"][0]
    if best["replicas"] > 1:
        print_text(replicas_text(chosen))
    if best["tables"]:
        _print_owners(best["tables"], names)
    _print_facts(chosen, best, result["price_source"])
    if result["target"] is not None:
        print_text(target_text(result))
    if len(scales) > 1:
        _print_scales(scales)
    for reason in (*chosen["refused"], *result["left_out"].values()):
        print_text(reason)
    print_caveats([row for row in shown_plans(chosen) if not row["codecs"]])  # codecs are named beside the plans
    if out is not None:
        print_text(f"plan: {out}")
    for note in notes:
        print_text(note)


def chosen_scale(result: Values) -> Values:
    """The scale that a result chose."""
    return next(scale for scale in result["scales"] if scale["gpus"] == result["chosen_gpus"])


def _print_ranked(scale: Values) -> None:
    rows = []
    for number, row in enumerate(shown := shown_plans(scale)):
        mark = FASTEST if number == 0 else TIE if row["tie"] else ""
        lead = row["step_time_s"] / scale["plans"][0]["step_time_s"] - 1
        error = row["error_bar"]
        rows.append(
            (
                f"{plan_label(row)}{mark}",
                format_time(row["step_time_s"]),
                format_count(row["samples_per_s"]),
                share_text(lead, signed=True) if number else "",
                format_size(row["memory_bytes"], 3),
                format_time(row["compute_s"]),
                format_time(row["exposed_comm_s"]),
                format_time(row["idle_s"]),
                step_bound_label(row),
                "" if error is None else f"±{100 * error:.0f} %",
            )
        )
    columns = ("plan", "step", "samples/s", "longer", "memory", "compute", "exposed comm", "idle", "bound by", "error")
    drops = ("idle", "compute", "memory", "exposed comm", "error", "longer")
    left = ("bound by",)
    job = f"{counted(scale['gpus'], 'GPU')}, {scale['batch']:,} samples a step"
    print_text(f"{job}: the fastest plan of each set of strategies; * fastest, tie: may be as fast")
    print_table(table_of(columns, rows, left=left, folds={"plan": 24, "bound by": 14}, drops=drops))
    print_intervals(shown)


def distinct_plans(scale: Values) -> list[Values]:
    """The fastest plan of each set of strategies, and those that were given."""

    def kind(row: Values) -> tuple[str, str, str]:
        return _COUNT.sub("", row["strategy"]), row["codecs"], row["source"]

    first = {kind(row): row for row in reversed(scale["plans"])}
    return [row for row in scale["plans"] if row is first[kind(row)]]


def shown_plans(scale: Values) -> list[Values]:
    """Those that are printed."""
    return [row for number, row in enumerate(distinct_plans(scale)) if number < _RANKED or row["source"]]


def plan_label(row: Values) -> str:
    """A plan's strategies, behind the file of a plan that was given, and its codecs."""
    source = f"{row['source']}: " if row["source"] else ""
    codecs = f", {row['codecs']}" if row["codecs"] else ""
    return source + strategy_label(row["strategy"]) + codecs


def _print_owners(tables: Sequence[Values], names: Sequence[str]) -> None:
    """Print each strategy's tables, with the owners of those that have some."""
    groups: dict[str, list[str]] = {}
    for number, table in enumerate(tables):
        name = (names[number] if names else "") or str(number)
        owners = f" on {_ranks(table)}" if table["ranks"] else ""
        cached = f" ({table['cached_rows']:,} rows cached, all in the host's memory)" if "cached_rows" in table else ""
        groups.setdefault(table["strategy"], []).append(name + owners + cached)
    for strategy, entries in groups.items():
        shown = "; ".join(entries[:_NAMED])
        more = f"; and {len(entries) - _NAMED:,} more" if len(entries) > _NAMED else ""
        print_text(f"{family_label(strategy)}: {shown}{more}")


def _print_facts(scale: Values, best: Values, source: str) -> None:
    """Print the leads, the emptiest and the fullest GPU, the gap and the cost of the best plan."""
    if best["codecs"]:
        print_text(f"codecs {best['codecs']} change what is trained{_without_codecs(scale)}")
    print_text(f"algorithms: {_algorithms(scale['algorithms'])}")
    leads = [
        f"{strategy_label(name)} {share_text(lead, signed=True)}" for name, lead in scale["leads"].items() if lead > 0
    ]
    if leads:
        print_text(f"lead over each strategy alone: {', '.join(leads)}")
    for row in scale["plans"]:
        if row["source"]:
            lead = row["step_time_s"] / best["step_time_s"] - 1
            print_text(f"lead over {row['source']}: {share_text(lead, signed=True)}")
    memory, sent, received = (
        " to ".join(format_size(end, 3) for end in scale["extremes"][f"{what}_bytes"])
        for what in ("memory", "sent", "received")
    )
    print_text(f"emptiest to fullest GPU: memory {memory}, sent {sent}, received {received}")
    print_text(
        f"placement: the best estimate is {share_text(scale['gap'])} above HiGHS's lower bound of "
        f"{format_time(scale['bound_s'])}"
    )
    if (cost := _cost(scale, source)) != "":
        print_text(f"cost of a billion samples: {cost}")
    if best.get("interval"):
        low, high = (scale["batch"] / best["interval"][end] for end in ("high_s", "low_s"))
        print_text(f"80 % interval: {format_count(low)} to {format_count(high)} samples/s")


def _without_codecs(scale: Values) -> str:
    lead = scale["lead_of_codecs"]
    return "" if lead is None else f"; the fastest plan without them takes {share_text(lead)} longer"


def _algorithms(chosen: Mapping[str, str]) -> str:
    """The collectives of each algorithm."""
    ops: dict[str, list[str]] = {}
    for op, algorithm in chosen.items():
        ops.setdefault(algorithm, []).append(op)
    return "; ".join(f"{algorithm} for {', '.join(names)}" for algorithm, names in ops.items())


def replicas_text(scale: Values) -> str:
    """The blocks of a plan with replicas."""
    replicas = scale["plans"][0]["replicas"]
    block = counted(scale["gpus"] // replicas, "GPU")
    return f"{replicas} replicas: each block of {block} has all tables; owners shown are those of block 0"


def target_text(result: Values) -> str:
    """How many GPUs reach the target, and how probably."""
    target = result["target"]
    sure = target["probability"]
    by = "" if sure is None else f" (probability by the error bar: {percent(sure)})"
    reached = f"{format_count(target['samples_per_s'])} samples/s"
    return f"fewest planned that reach {reached}: {counted(result['chosen_gpus'], 'GPU')}{by}"


def share_text(value: float, signed: bool = False) -> str:
    """A share in per cent, to a hundredth of one."""
    return percent(round(value, 4), signed)


def si(value: float, unit: str) -> str:
    """A quantity with an SI prefix, such as `14 MJ`."""
    number, _, prefix = format_count(value, 3).partition(" ")
    return f"{number} {prefix}{unit}"


def _cost(scale: Values, source: str) -> str:
    """Dollars, with the `source` of the price, and joules for a billion samples; empty where neither is known."""
    joules = scale["joules_per_billion"]
    dollars = scale["dollars_per_billion"]
    by = f" ({source})" if source else ""
    parts = [] if dollars is None else [f"{dollars:,.2f} $ at {scale['dollars_per_h']:,.2f} $/h{by}"]
    if joules is not None:
        parts.append(f"at most {si(joules, 'J')} for the GPUs alone ({si(scale['watts'], 'W')})")
    return ", ".join(parts)


def _print_scales(scales: Sequence[Values]) -> None:
    """Print the best plan of each number of GPUs; those on the Pareto front are marked."""
    rows = [
        (
            f"{scale['gpus']:,}{' *' if scale['on_front'] else ''}",
            strategy_label(scale["strategy"]),
            format_count(scale["samples_per_s"]),
            "" if scale["dollars_per_h"] is None else f"{scale['dollars_per_h']:,.2f}",
            "" if scale["dollars_per_billion"] is None else f"{scale['dollars_per_billion']:,.2f}",
            "" if scale["joules_per_billion"] is None else si(scale["joules_per_billion"], "J"),
            share_text(scale["gap"]),
        )
        for scale in scales
    ]
    columns = ("GPUs", "plan", "samples/s", "$/h", "$ per 1e9", "energy per 1e9", "gap")
    kept = [0, 1, 2, *(n for n in range(3, len(columns)) if any(row[n] for row in rows))]
    cells = [[row[n] for n in kept] for row in rows]
    shown = [columns[n] for n in kept]
    print_table(table_of(shown, cells, left=("plan",), folds={"plan": 24}, drops=("gap", "energy per 1e9")))
    print_text("* on the Pareto front: no other is faster at no higher cost")


def _ranks(table: Values) -> str:
    """The owners of a table; those on a server have consecutive numbers."""
    ranks = table["ranks"]
    on_server = table["strategy"] == "table_row_wise"
    return f"{ranks[0]} to {ranks[-1]}" if on_server else ", ".join(map(str, ranks))
