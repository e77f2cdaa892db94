"""Results on the terminal: what `dessim replay`, `project`, `collective`, `topo show` and `trace` print."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dessim.results.critical_path import fold_short_ops
from dessim.results.error_bar import describe_intervals, interval_text
from dessim.results.labels import bound_label, link_label, step_bound_label
from dessim.results.rows import fitting
from dessim.results.style import strategy_label
from dessim.results.tables import (
    collective_table,
    console,
    key_value_table,
    print_table,
    projection_table,
    table_of,
    what_if_table,
)
from dessim.units import counted, format_bandwidth, format_size, format_time, percent

Values = Mapping[str, Any]
OTHER_OPS_SHOWN = 40  # ops of a trace that are not collectives


def print_text(text: str) -> None:
    """Print a line; if it is too long for the terminal, continue it on indented lines."""
    width = max(console().width, 20)
    bound = text.replace(" %", "\N{NO-BREAK SPACE}%").replace("* ", "*\N{NO-BREAK SPACE}")  # signs do not stand alone
    folded = textwrap.fill(bound, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    print(folded.replace("\N{NO-BREAK SPACE}", " "))


def print_facts(title: str, pairs: Sequence[tuple[str, object]]) -> None:
    """Print a title, then names and values below it."""
    print_text(title)
    print_table(key_value_table(pairs))


def print_replay(result: Values) -> None:
    """Print predicted against measured step time, then where the predicted step goes."""
    measured = result["measured_step_s"]
    recorded = result["recorded_step_s"]
    pairs: list[tuple[str, object]] = [
        ("predicted step", format_time(result["predicted_step_s"])),
        ("measured step", "none in the trace" if measured is None else format_time(measured)),
    ]
    if measured is not None:
        pairs.append(("error", percent(result["prediction_error"], signed=True)))
    if recorded is not None:
        pairs += [
            ("recorded step", format_time(recorded)),
            ("self-replay error", percent(result["self_replay_error"], signed=True)),
        ]
    if interval := result.get("interval"):
        pairs.append(("80 % interval", f"{interval_text(interval)}; mostly: {interval['mostly']}"))
    pairs += [
        ("compute", format_time(result["compute_s"])),
        ("exposed communication", format_time(result["exposed_comm_s"])),
        ("idle", format_time(result["idle_s"])),
        ("bound by", step_bound_label(result)),
    ]
    ranks = counted(result["ranks"], "rank")
    title = f"{strategy_label(result['strategy'])}, {ranks} on {result['cluster']}, {counted(result['steps'], 'step')}"
    print_facts(title, pairs)
    if note := result.get("note"):
        print(f"note: {note}")
    _print_collectives_of_step(result["comm_by_op"])
    _print_attribution(result, result["predicted_step_s"])
    if "what_if" in result:
        print_table(what_if_table([({}, result["what_if"])]))


def _print_collectives_of_step(ops: Sequence[Values]) -> None:
    columns = ("op", "collective", "algorithm", "size", "time", "exposed", "bound by")
    rows = [
        (
            op["name"],
            op["collective"],
            op["algorithm"],
            format_size(op["bytes"]),
            format_time(op["time_s"]),
            format_time(op["exposed_s"]),
            bound_label(op["bound_by"]),
        )
        for op in ops
    ]
    print_table(
        table_of(
            columns,
            rows,
            left=("collective", "algorithm", "bound by"),
            folds={"op": 20, "bound by": 20},
            drops=("algorithm", "collective"),
        )
    )


def _print_attribution(result: Values, step_time_s: float) -> None:
    """Print the critical path of a step, and how busy each link class was."""
    ops = fold_short_ops(result["critical_path"], step_time_s)
    rows = [
        (
            op["name"],
            op["what"],
            format_time(op["time_s"]),
            percent(op["time_s"] / step_time_s),
            bound_label(op["bound_by"]),
        )
        for op in ops
    ]
    columns = ("critical path", "kind", "time", "share of step", "bound by")
    print_table(
        table_of(columns, rows, left=("kind", "bound by"), folds={"critical path": 20, "bound by": 20}, drops=("kind",))
    )
    use = result["utilisation"]
    links = [
        (
            link_label(link_class),
            format_size(result["bytes_by_link"][link_class]),
            percent(mean),
            percent(use["peak_share"][link_class]),
        )
        for link_class, mean in use["mean_share"].items()
    ]
    if links:
        print_table(table_of(("links", "bytes per step", "mean use", "peak use"), links))


def print_projection(rows: Sequence[Values], full_version: str = "--csv or --json") -> None:
    """Print the table, the source of each number, and the caveats; for a single step also its critical path.

    `full_version` names the options that print the columns a narrow terminal has no room for.
    """
    print_table(projection_table(rows, full_version))
    priced = fitting(rows)
    if len(priced) == 1:
        _print_attribution(priced[0], priced[0]["step_time_s"])
    asked = [(row, row["what_if"]) for row in priced if row.get("what_if")]
    if asked:
        print_table(what_if_table(asked))
    if all(row["error_bar"] is None for row in priced):
        print_text("error bar: unknown, because this job has not been measured on this cluster")
    print_intervals(priced)
    # Rows have the same sources, except that only some have one for spilled rows or servers.
    sources = {quantity: source for row in reversed(priced) for quantity, source in row["provenance"].items()}
    for quantity, source in sources.items():
        print_text(f"{quantity}: {source}")
    print_caveats(priced)
    for row in rows:
        if row["does_not_fit"]:
            print_text(row["does_not_fit"])


def print_intervals(rows: Sequence[Values]) -> None:
    """Print what the rows' error bars are, if any row has one."""
    if said := describe_intervals(rows):
        print_text(said)


def print_caveats(rows: Sequence[Values]) -> None:
    """Print each caveat of the rows (`strategy`, `caveat`) once, after the strategies that share it."""
    strategies: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["caveat"]:
            strategies.setdefault(row["caveat"], {})[strategy_label(row["strategy"])] = None
    for caveat, labels in strategies.items():
        print_text(f"{'; '.join(labels)}: {caveat}")


def print_collectives(rows: Sequence[Values]) -> None:
    """Print nccl-tests' columns, then the algorithm of each row and what bounds it."""
    print_table(collective_table(rows))
    for row in rows:
        size = f"{row['size_bytes']} B: " if len(rows) > 1 else ""
        print_text(f"{size}{row['algorithm']}, bound by {bound_label(row['bound_by'])}")


def print_description(facts: Values) -> None:
    """Print the facts of a cluster (`dessim.cluster.describe`), then those of each kind of server and of link."""
    skipped = ("name", "node_kinds", "switches", "links")
    pairs = [(_label(key), _text(key, value)) for key, value in facts.items() if key not in skipped]
    plurals = {"switch": "switches", "router": "routers"}
    pairs += [(plurals.get(kind, f"{kind} switches"), f"{count:,}") for kind, count in facts["switches"].items()]
    print_facts(facts["name"], [(label, text) for label, text in pairs if text])
    if len(kinds := facts["node_kinds"]) > 1:
        columns = tuple(_label(key) for key in kinds[0])
        cells = [[_text(key, value) for key, value in kind.items()] for kind in kinds]
        print_table(table_of(columns, cells, folds=dict.fromkeys(columns, 8)))
    rows = [
        (link_label(link_class), f"{link['count']:,}", _rates(link), f"{link['latency_us']:g} us")
        for link_class, link in facts["links"].items()
    ]
    print_table(table_of(("links", "count", "payload rate per direction", "latency"), rows))


_UNITS: dict[str, Callable[[float], str]] = {
    "GBps": lambda value: format_bandwidth(1e9 * value),
    "GiB": lambda value: format_size(2**30 * value),
}
"""Last words of JSON keys that are units, and how people write such values."""


def _label(key: str) -> str:
    """The words of a JSON key, without its unit."""
    return " ".join(word for word in key.split("_") if word not in _UNITS)


def _text(key: str, value: object) -> str:
    """A value with the unit of its JSON key; empty if there is none."""
    if value is None:
        return ""
    if isinstance(value, int | float) and (written := _UNITS.get(key.rpartition("_")[2])):
        return written(value)
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _rates(link: Values) -> str:
    """One rate, or the range from the slowest to the fastest link."""
    ends = [link[key] for key in ("capacity_GBps", "fastest_GBps") if key in link]
    return " to ".join(_UNITS["GBps"](rate) for rate in ends)


def print_predicted_trace(predicted: Values) -> None:
    """Print each recorded collective, measured and predicted; then the errors, and the fit where there is one."""
    fitted = predicted["op_overhead_s"] is not None
    rows = [
        (
            op["name"],
            op["step"],
            format_size(op["bytes"]),
            format_time(op["waiting_median_s"]),
            format_time(op["measured_s"]),
            format_time(op["predicted_s"]),
            interval_text(op["interval"]),
            percent(op["error"], signed=True),
            *([format_time(op["described_s"])] if fitted else []),
        )
        for op in predicted["collectives"]
    ]
    shown = ("collective", "step", "size", "waiting", "transfer", "predicted", "80 % interval", "error")
    columns = (*shown, *(("without a fit",) if fitted else ()))
    drops = ("without a fit", "waiting", "step", "80 % interval")
    print_table(table_of(columns, rows, folds={"collective": 20}, drops=drops))
    labels = {
        "left_out": "error, each predicted from the others",
        "described": "error without a fit" if fitted else "error, nothing fitted",
        "rates_fitted": "error if rates are fitted too",
    }
    lines = [
        (labels[kind], f"median {percent(error['median'])}, worst {percent(error['worst'])}")
        for kind, error in predicted["errors"].items()
    ]
    if predicted["covered"] is not None:
        lines.append(("within their 80 % intervals", percent(predicted["covered"])))
    if fitted:
        fit = f"{format_time(predicted['op_overhead_s'])} per call, latencies x {predicted['latency_factor']:.4g}"
        lines.insert(0, ("fitted to all", fit))
    print_facts(predicted["cluster"], lines)


def print_trace(described: Values) -> None:
    """Print a trace's numbers, then its ops."""
    step = described["step_time_s"]
    spread = f"median {format_time(step['median'])}, {format_time(step['min'])} to {format_time(step['max'])}"
    pairs = [
        ("strategy", strategy_label(described["strategy"])),
        ("ranks", f"{described['ranks']:,} ({described['backend']} on {described['device']})"),
        ("steps", f"{described['steps']} recorded after {described['warmup_steps']} of warm-up"),
        ("ops", f"{described['ops']:,}"),
        ("step time", spread if described["steps"] > 1 else format_time(step["median"])),
        ("bytes sent", f"{format_size(described['bytes_sent_per_rank_per_step'])} per rank and step"),
        ("compute", percent(described["compute_share"])),
        ("exposed communication", percent(described["exposed_comm_share"])),
        ("idle", percent(described["idle_share"])),
    ]
    print_facts(described["name"], pairs)
    shown = _longest_ops(described["by_op"])
    columns = ("op", "phase", "kind", "calls", "mean size", "median time", "waiting", "transfer")
    print_table(
        table_of(
            columns,
            [_op_cells(op) for op in shown],
            left=("phase", "kind"),
            folds={"op": 28},
            drops=("phase", "calls", "waiting", "kind", "mean size"),
        )
    )
    if hidden := len(described["by_op"]) - len(shown):
        print_text(f"and {hidden:,} shorter ops; all with --json")
    for problem in described["problems"]:
        print_text(f"warning: {problem}")


def _op_cells(op: Values) -> tuple[object, ...]:
    """The cells of an op of a trace; only collectives have a size, a wait and a transfer."""
    return (
        op["name"],
        op["phase"],
        op["collective"] or op["kind"],
        op["calls"],
        format_size(op["bytes_mean"]) if op["collective"] else "",
        format_time(op["time_s"]["median"]),
        *(format_time(op[key]["median"]) if op[key]["n"] else "" for key in ("waiting_s", "transfer_s")),
    )


def _longest_ops(ops: Sequence[Values]) -> list[Values]:
    """All collectives and the longest other ops, in their order: a profile may have thousands of ops."""
    totals = [op["calls"] * op["time_s"]["mean"] for op in ops if not op["collective"]]
    shortest_shown = sorted(totals)[-OTHER_OPS_SHOWN] if len(totals) > OTHER_OPS_SHOWN else 0.0
    return [op for op in ops if op["collective"] or op["calls"] * op["time_s"]["mean"] >= shortest_shown]
