"""The report: one HTML file that needs no other file and shows the source of every number.

Styles and figures are inline and nothing is loaded or run, so the file can be mailed, printed and archived. The
template escapes every value of the result; only SVG made by dessim itself is inserted unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dessim.files import write_text
from dessim.results import figures
from dessim.results.critical_path import fold_short_ops
from dessim.results.error_bar import is_tie
from dessim.results.labels import bound_label, link_label
from dessim.results.rows import Row, contenders, fitting
from dessim.results.style import strategy_label, style_of
from dessim.results.svg import inline
from dessim.units import format_count, format_size, format_time, percent
from dessim.workload.strategies import find_spec

if TYPE_CHECKING:
    from jinja2 import Environment

SOURCES = ("measured", "fitted", "formula", "simulated", "assumed")  # kinds of provenance, the most reliable first
ASSUMED_ERROR = 0.05  # of predictions that no measurement was compared with; a smaller lead is a tie. Assumed
_SMALLEST_ERROR = 0.01  # a smaller error on one run does not make every prediction that accurate
_QUANTITIES = {
    "sizes": "bytes and FLOPs of each op",
    "compute": "compute times",
    "communication": "communication times",
}
_FORBIDDEN = re.compile(
    r"<\s*(script|foreignObject|iframe|object|embed|image)\b|<[^>]*\s(on\w+|xlink:href|href)\s*=\s*[\"']?(?!#)", re.I
)


@dataclass(frozen=True, slots=True)
class FastestStrategy:
    """The fastest strategy at one scale; `lead` is its throughput over that of the runner-up, minus 1.

    Runner-up and lead are None where only one strategy was projected. `is_tie`: the lead is within the error.
    """

    gpus: int
    strategy: str
    runner_up: str | None = None
    lead: float | None = None
    is_tie: bool = False


def fastest_by_scale(rows: Sequence[Row], uncertainty: float) -> list[FastestStrategy]:
    """The fastest strategy of each scale, in ascending order of GPUs.

    `uncertainty` is the relative error to assume for rows without an `error_bar`.
    """
    fastest = []
    rows = contenders(rows)
    for gpus in sorted({row["gpus"] for row in rows}):
        ranked = sorted((r for r in rows if r["gpus"] == gpus), key=lambda r: -r["samples_per_s"])
        if len(ranked) == 1:
            fastest.append(FastestStrategy(gpus, ranked[0]["strategy"]))
            continue
        best, second = ranked[:2]
        lead = best["samples_per_s"] / second["samples_per_s"] - 1
        errors = [uncertainty if r.get("error_bar") is None else abs(r["error_bar"]) for r in (best, second)]
        has_intervals = best.get("interval") and second.get("interval")
        tie = is_tie(best, second) if has_intervals else lead < max(errors)
        fastest.append(FastestStrategy(gpus, best["strategy"], second["strategy"], lead, is_tie=tie))
    return fastest


def answer(result: Mapping[str, Any]) -> str:
    """The report's first paragraph: which strategy is fastest at which scale of the projected cluster."""
    rows = result["projection"]
    if not rows:
        return "Nothing was projected, so this report compares no strategies."
    fastest = fastest_by_scale(rows, _uncertainty(result))
    if not fastest:
        return "Only lower bounds were projected, so this report compares no strategies."
    blocks = [list(block) for _, block in groupby(fastest, key=lambda f: (f.strategy, f.is_tie))]
    sentences = [f"On {result['projection_cluster']}: " + "; ".join(map(_clause, blocks)) + "."]
    at_largest = [r for r in contenders(rows) if r["gpus"] == fastest[-1].gpus]
    best = max(at_largest, key=lambda r: r["samples_per_s"])
    exposed = best["exposed_comm_s"] / best["step_time_s"]
    sentences.append(
        f"At {best['gpus']:,} GPUs {strategy_label(best['strategy'])} trains {format_count(best['samples_per_s'], 3)}"
        f" samples/s with steps of {format_time(best['step_time_s'], 3)}, of which"
        f" {percent(exposed)} wait for the network."
    )
    des = max((r["samples_per_s"] for r in at_largest if _is_des(r["strategy"])), default=None)
    if des is not None and des < best["samples_per_s"]:
        sentences.append(f"The faster DES variant reaches {percent(des / best['samples_per_s'])} of that.")
    return " ".join(sentences)


def _is_des(strategy: str) -> bool:
    spec = find_spec(strategy)
    return spec is not None and spec.substitutes


def _clause(block: Sequence[FastestStrategy]) -> str:
    """A part of a sentence about successive scales with the same fastest strategy."""
    scales = f"at {block[0].gpus:,} GPUs"
    if len(block) > 1:
        scales = f"from {block[0].gpus:,} to {block[-1].gpus:,} GPUs"
    name = strategy_label(block[0].strategy)
    runners_up = list(dict.fromkeys(strategy_label(f.runner_up) for f in block if f.runner_up is not None))
    if not runners_up:
        return f"{scales}, {name} is the only strategy projected"
    if block[0].is_tie:
        return f"{scales}, {name} and {' or '.join(runners_up)} are too close to call ({_lead_range(block)} apart)"
    others = runners_up[0] if len(runners_up) == 1 else f"the next ({', '.join(runners_up)})"
    return f"{scales}, {name} is fastest, {_lead_in_words(block)} {others}"


def _lead_range(block: Sequence[FastestStrategy]) -> str:
    """`12 to 30 %`."""
    leads = [f.lead for f in block if f.lead is not None]
    low, high = percent(min(leads)), percent(max(leads))
    return high if low == high else f"{low[:-2]} to {high}"


def _lead_in_words(block: Sequence[FastestStrategy]) -> str:
    """`12 to 30 % ahead of`, or `2.5 to 4 times as fast as` where a percentage would exceed 100."""
    leads = [f.lead for f in block if f.lead is not None]
    if min(leads) < 1:
        return f"{_lead_range(block)} ahead of"
    low, high = f"{min(leads) + 1:.2g}", f"{max(leads) + 1:.2g}"
    return f"{low if low == high else f'{low} to {high}'} times as fast as"


def render_report(
    result: Mapping[str, Any], *, cluster_svg: str = "", timeline: str | None = None, steps: Sequence[Row] = ()
) -> str:
    """The report as HTML text.

    `result` is the content of result.json. `cluster_svg` is a drawing by dessim.cluster.drawing, `timeline` the name of
    the timeline file beside the report, `steps` are rows for figures.predicted_vs_measured. Raises ValueError if the
    drawing could run or load something.
    """
    from markupsafe import Markup

    drawing = _checked_drawing(cluster_svg) if cluster_svg else ""
    rows = fitting(result["projection"])
    too_large = [row for row in result["projection"] if row.get("does_not_fit")]
    result = {**result, "projection": rows}
    uncertainty = _uncertainty(result)
    largest = max(rows, key=lambda r: (r["gpus"], r["samples_per_s"])) if rows else None
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            r=result,
            answer=answer(result),
            uncertainty=uncertainty,
            fastest=fastest_by_scale(rows, uncertainty),
            provenance=provenance_of(rows),
            caveats=caveats_of(rows, too_large),
            throughput=Markup(figures.throughput(rows)) if rows else "",
            breakdown=Markup(figures.step_breakdown(rows)) if rows else "",
            sent=Markup(figures.bytes_per_worker(rows)) if rows else "",
            bound=_attribution(largest, "projected") if largest else None,
            replay_bound=_attribution(result["replay"], "replayed"),
            step_times=Markup(figures.predicted_vs_measured(steps)) if steps else "",
            cluster_svg=Markup(drawing),
            timeline=timeline,
        )
    )


def write_report(path: str | Path, result: Mapping[str, Any], **extras: Any) -> None:
    """Write the report atomically; `extras` are the keyword arguments of `render_report`."""
    write_text(path, render_report(result, **extras))


def page_environment() -> Environment:
    """The template engine, with filters that write values as text; a value that is None becomes a dash."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dessim.results"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "time": _or_dash(format_time),
        "size": _or_dash(format_size),
        "count": _or_dash(format_count),
        "percent": _or_dash(percent),
        "signed": _or_dash(lambda value: percent(value, signed=True)),
        "tiny": _or_dash("{:.2g}".format),
        "thousands": _or_dash("{:,.0f}".format),
        "strategy": strategy_label,
        "color": lambda name: style_of(name).color,
        "bound": bound_label,
        "links": link_label,
    }
    return environment


def _or_dash(text: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "–" if value is None else text(value)


def _attribution(row: Row, which: str) -> dict[str, Any]:
    """The report's sentences on why a step takes its time: critical path, use of links, gains of changes.

    `which` ("projected") keeps the ids of this figure apart from those of the other one.
    """
    from markupsafe import Markup

    use = row["utilisation"]
    return {
        "row": row,
        "path": fold_short_ops(row["critical_path"], row["step_time_s"]),
        "what_if": row.get("what_if") or [],
        "use": Markup(figures.utilisation(use, title=f"Utilisation of links, {which}")) if use["share"] else "",
        "links": [
            {"link_class": name, "bytes": row["bytes_by_link"][name], "mean": mean, "peak": use["peak_share"][name]}
            for name, mean in use["mean_share"].items()
        ],
    }


def _uncertainty(result: Mapping[str, Any]) -> float:
    error = result.get("prediction_error")
    return ASSUMED_ERROR if error is None else max(abs(error), _SMALLEST_ERROR)


def caveats_of(rows: Sequence[Row], too_large: Sequence[Row]) -> list[dict[str, str]]:
    """Each caveat of a strategy once, then why a job does not fit."""
    caveats = dict.fromkeys((r["strategy"], r["caveat"]) for r in rows if r.get("caveat"))
    misfits = [(r["strategy"], r["does_not_fit"]) for r in too_large]
    return [{"strategy": strategy, "text": text} for strategy, text in [*caveats, *misfits]]


def provenance_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The sources of the projection's numbers: one entry per quantity and source, with the rows it covers."""
    covered: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for quantity, source in row["provenance"].items():
            covered.setdefault((quantity, str(source)), []).append(row)
    order = list(_QUANTITIES)
    sources = sorted(covered, key=lambda key: order.index(key[0]) if key[0] in order else len(order))
    n_strategies = len({row["strategy"] for row in rows})
    return [
        {
            "what": _QUANTITIES.get(quantity, quantity),
            "kinds": [kind for kind in SOURCES if kind in source.lower()],
            "source": source,
            "covers": _coverage(covered[quantity, source], n_strategies),
        }
        for quantity, source in sources
    ]


def _coverage(rows: Sequence[Row], n_strategies: int) -> str:
    """`8 to 1,024 GPUs, all strategies`."""
    labels = list(dict.fromkeys(strategy_label(row["strategy"]) for row in rows))
    scales = sorted({row["gpus"] for row in rows})
    gpus = f"{scales[0]:,}" if len(scales) == 1 else f"{scales[0]:,} to {scales[-1]:,}"
    return f"{gpus} GPUs, {'all strategies' if len(labels) == n_strategies else ', '.join(labels)}"


def _checked_drawing(svg: str) -> str:
    """The drawing for pasting into the report. Raises ValueError if it could run or load something."""
    if _FORBIDDEN.search(svg):
        raise ValueError("the cluster drawing holds something that could run or load; it must be plain SVG")
    return inline(svg, "cluster")
