"""Results on the terminal: what `dessim replay`, `project`, `collective`, `topo show` and `trace` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dessim.results.rows import fitting
from dessim.results.tables import (
    collective_table,
    key_value_table,
    print_table,
    projection_table,
    table_of,
    what_if_table,
)
from dessim.units import format_size, format_time, percent

Values = Mapping[str, Any]
OPS_SHOWN = 40  # of a trace, beside its collectives


def print_replay(result: Values) -> None:
    """Predicted against measured, then where the predicted step goes."""
    measured, recorded = result["measured_step_s"], result["recorded_step_s"]
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
    pairs += [
        ("compute", format_time(result["compute_s"])),
        ("exposed communication", format_time(result["exposed_comm_s"])),
        ("idle", format_time(result["idle_s"])),
        ("bound by", result["bound_by"]),
    ]
    title = f"{result['strategy']}, {result['ranks']} ranks on {result['cluster']}, {result['steps']} steps"
    print_table(key_value_table(title, pairs))
    rows = [
        (
            op["name"],
            op["collective"],
            op["algorithm"],
            format_size(op["bytes"]),
            format_time(op["time_s"]),
            format_time(op["exposed_s"]),
            op["bound_by"],
        )
        for op in result["comm_by_op"]
    ]
    columns = ("op", "collective", "algorithm", "size", "time", "exposed", "bound by")
    print_table(table_of(columns, rows, left=("collective", "algorithm", "bound by")))
    _print_attribution(result, result["predicted_step_s"])
    if "what_if" in result:
        print_table(what_if_table([({}, result["what_if"])]))


def _print_attribution(result: Values, step_time_s: float) -> None:
    """What made the step as long as it was, and how busy each link class was."""
    rows = [
        (op["name"], op["what"], format_time(op["time_s"]), percent(op["time_s"] / step_time_s), op["bound_by"])
        for op in result["critical_path"]
    ]
    print_table(
        table_of(("on the critical path", "what", "time", "of the step", "bound by"), rows, left=("what", "bound by"))
    )
    used = result["utilisation"]
    busy = [
        (kind, format_size(result["bytes_by_link"][kind]), percent(mean), percent(used["peak_share"][kind]))
        for kind, mean in used["mean_share"].items()
    ]
    if busy:
        print_table(table_of(("links", "bytes a step", "mean use", "peak use"), busy))


def print_projection(rows: Sequence[Values]) -> None:
    """The table, where its numbers come from, and what it leaves out; of a single step also what made it so long."""
    print_table(projection_table(rows))
    priced = fitting(rows)
    if len(priced) == 1:
        _print_attribution(priced[0], priced[0]["step_time_s"])
    asked = [(row, row["what_if"]) for row in priced if row.get("what_if")]
    if asked:
        print_table(what_if_table(asked))
    if all(row["error_bar"] is None for row in priced):
        print("error: not known, since nobody has measured this job there")
    # The first row speaks for all, but only those that spill have a source for it.
    for key, text in {k: v for row in reversed(priced) for k, v in row["provenance"].items()}.items():
        print(f"{key}: {text}")
    for strategy, caveat in dict.fromkeys((row["strategy"], row["caveat"]) for row in priced if row["caveat"]):
        print(f"{strategy}: {caveat}")
    for row in rows:
        if row["does_not_fit"]:
            print(row["does_not_fit"])


def print_collectives(rows: Sequence[Values]) -> None:
    """nccl-tests' columns, then what each row cost to simulate."""
    print_table(collective_table(rows))
    for row in rows:
        print(
            f"{row['size_bytes']} B: {row['algorithm']}, bound by {row['bound_by']}; {row['events']} events, "
            f"{row['flow_colours']} flow and {row['link_colours']} link colours, {row['wall_s']:.2f} s wall, "
            f"{row['peak_rss_MiB']:.0f} MiB"
        )


def print_description(facts: Values) -> None:
    """Print the facts of a cluster (`dessim.cluster.describe`), then those of each kind of server and of link."""
    skipped = ("name", "node_kinds", "switches", "links")
    pairs = [(_label(key), _text(key, value)) for key, value in facts.items() if key not in skipped]
    plurals = {"switch": "switches", "router": "routers"}
    pairs += [(plurals.get(kind, f"{kind} switches"), f"{count:,}") for kind, count in facts["switches"].items()]
    print_table(key_value_table(facts["name"], [(label, text) for label, text in pairs if text]))
    if len(kinds := facts["node_kinds"]) > 1:
        columns = tuple(_label(key) for key in kinds[0])
        print_table(table_of(columns, [[_text(key, value) for key, value in kind.items()] for kind in kinds]))
    rows = [
        (kind, f"{link['count']:,}", _rates(link), f"{link['latency_us']:g} us")
        for kind, link in facts["links"].items()
    ]
    print_table(table_of(("link", "count", "payload rate per direction", "latency"), rows))


_UNITS = {"GBps": "GB/s", "GiB": "GiB"}
"""Last words of JSON keys that are units, and how people write them."""


def _label(key: str) -> str:
    """The words of a JSON key, without its unit."""
    return " ".join(word for word in key.split("_") if word not in _UNITS)


def _text(key: str, value: object) -> str:
    """A value with the unit of its JSON key; empty if there is none."""
    if value is None:
        return ""
    text = f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    unit = _UNITS.get(key.rpartition("_")[2])
    return f"{text} {unit}" if unit else text


def _rates(link: Values) -> str:
    """One rate, or from the slowest to the fastest link."""
    fastest = f" to {link['fastest_GBps']:g}" if "fastest_GBps" in link else ""
    return f"{link['capacity_GBps']:g}{fastest} GB/s"


def print_held(found: Values) -> None:
    """Each recorded collective, measured and predicted from the others; then what was fitted, and the errors."""
    rows = [
        (
            op["name"],
            op["step"],
            format_size(op["bytes"]),
            format_time(op["waiting_median_s"]),
            *(format_time(op[key]) for key in ("measured_s", "predicted_s")),
            percent(op["error"], signed=True),
            format_time(op["described_s"]),
        )
        for op in found["collectives"]
    ]
    columns = ("collective", "step", "size", "waiting", "transfer", "predicted", "error", "not fitted")
    print_table(table_of(columns, rows))
    fitted = f"{format_time(found['op_overhead_s'])} a call, latencies x {found['latency_factor']:.4g}"
    names = {
        "left_out": "error, each predicted from the others",
        "described": "error without any fit",
        "rates_fitted": "error where rates are fitted too",
    }
    errors = [
        (names[kind], f"median {percent(e['median'])}, worst {percent(e['worst'])}")
        for kind, e in found["errors"].items()
    ]
    print_table(key_value_table(found["cluster"], [("fitted to all", fitted), *errors]))


def print_trace(found: Values) -> None:
    """A trace's numbers, then its ops by time."""
    step = found["step_time_s"]
    pairs = [
        ("strategy", found["strategy"]),
        ("ranks", f"{found['ranks']} ({found['backend']} on {found['device']})"),
        ("steps", f"{found['steps']} recorded after {found['warmup_steps']} of warm-up"),
        ("ops", f"{found['ops']:,}"),
        ("step time", f"{format_time(step['median'])} median, {format_time(step['min'])}..{format_time(step['max'])}"),
        ("sent a rank a step", format_size(found["bytes_sent_per_rank_per_step"])),
        ("computing", percent(found["compute_share"])),
        ("only communicating", percent(found["exposed_comm_share"])),
        ("neither", percent(found["idle_share"])),
    ]
    print_table(key_value_table(found["name"], pairs))
    shown = _worth_a_row(found["by_op"])
    rows = [
        (
            op["name"],
            op["phase"],
            op["collective"] or op["kind"],
            op["calls"],
            format_size(op["bytes_mean"]) if op["collective"] else "",
            format_time(op["time_s"]["median"]),
            *(format_time(op[key]["median"]) if op[key]["n"] else "" for key in ("waiting_s", "transfer_s")),
        )
        for op in shown
    ]
    columns = ("op", "phase", "kind", "calls", "mean size", "median time", "waiting", "transfer")
    print_table(table_of(columns, rows, left=("phase", "kind")))
    if rest := len(found["by_op"]) - len(shown):
        print(f"and {rest:,} ops that take less time; all with --json")
    for problem in found["problems"]:
        print(f"warning: {problem}")


def _worth_a_row(ops: Sequence[Values]) -> list[Values]:
    """All collectives, and of the other ops the longest, in the order they have; a profile may have thousands."""
    other = [op["calls"] * op["time_s"]["mean"] for op in ops if not op["collective"]]
    least = sorted(other)[-OPS_SHOWN] if len(other) > OPS_SHOWN else 0.0
    return [op for op in ops if op["collective"] or op["calls"] * op["time_s"]["mean"] >= least]
