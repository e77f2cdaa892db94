"""The report: one HTML file that stands alone, with every number's source beside it.

Styles and figures are inline and nothing is loaded or run, so the file can be mailed, printed and archived. Everything
from the result is escaped by the template; only SVG made by dessim itself goes in as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from dessim.files import write_text
from dessim.results import figures
from dessim.results.rows import Row, fitting
from dessim.results.style import style_of
from dessim.results.svg import inline
from dessim.units import format_count, format_size, format_time, percent
from dessim.workload.strategies import find_spec

SOURCES = ("measured", "fitted", "formula", "simulated", "assumed")  # kinds of provenance, the surest first
ASSUMED_ERROR = 0.05  # a lead below this is a tie where no prediction was held against a measurement; assumed
_FORBIDDEN = re.compile(
    r"<\s*(script|foreignObject|iframe|object|embed|image)\b|<[^>]*\s(on\w+|xlink:href|href)\s*=\s*[\"']?(?!#)", re.I
)


@dataclass(frozen=True, slots=True)
class Winner:
    """The fastest strategy at one scale; `lead` is its throughput over the next one's, minus 1."""

    gpus: int
    strategy: str
    rival: str | None
    lead: float | None
    tie: bool


def winners(rows: Sequence[Row], uncertainty: float) -> list[Winner]:
    """The fastest strategy of each scale. A lead smaller than the prediction's own error is a tie.

    `uncertainty` is the relative error to assume for rows without an `error_bar`.
    """
    found = []
    for gpus in sorted({row["gpus"] for row in rows}):
        ranked = sorted((r for r in rows if r["gpus"] == gpus), key=lambda r: -r["samples_per_s"])
        if len(ranked) == 1:
            found.append(Winner(gpus, ranked[0]["strategy"], None, None, False))
            continue
        best, second = ranked[:2]
        lead = best["samples_per_s"] / second["samples_per_s"] - 1
        bars = [uncertainty if r.get("error_bar") is None else abs(r["error_bar"]) for r in (best, second)]
        found.append(Winner(gpus, best["strategy"], second["strategy"], lead, lead < max(bars)))
    return found


def answer(result: Mapping[str, Any]) -> str:
    """The report's first paragraph: who wins where on the projected cluster, in words."""
    rows = result["projection"]
    if not rows:
        return "Nothing was projected, so this report compares no strategies."
    best = winners(rows, _uncertainty(result))
    parts = []
    for (strategy, tie), group in groupby(best, key=lambda w: (w.strategy, w.tie)):
        block = list(group)
        scales = _scales([w.gpus for w in block])
        name = style_of(strategy).label
        rivals = list(dict.fromkeys(style_of(w.rival).label for w in block if w.rival is not None))
        if not rivals:
            parts.append(f"{scales}, {name} is the only strategy priced")
        elif tie:
            rival = " or ".join(rivals)
            parts.append(f"{scales}, {name} and {rival} are too close to call ({_leads(block)} apart)")
        else:
            parts.append(f"{scales}, {name} is fastest, {_ahead(block)} {_list(rivals)}")
    sentences = [f"On {result['projection_cluster']}: " + "; ".join(parts) + "."]
    there = [r for r in rows if r["gpus"] == best[-1].gpus]
    last = max(there, key=lambda r: r["samples_per_s"])
    exposed = last["exposed_comm_s"] / last["step_time_s"]
    sentences.append(
        f"At {last['gpus']:,} GPUs {style_of(last['strategy']).label} trains {format_count(last['samples_per_s'], 3)}"
        f" samples/s with steps of {format_time(last['step_time_s'], 3)}, of which"
        f" {percent(exposed)} wait for the network."
    )
    des = max((r["samples_per_s"] for r in there if _is_des(r["strategy"])), default=None)
    if des is not None and des < last["samples_per_s"]:
        sentences.append(f"The better DES variant there reaches {percent(des / last['samples_per_s'])} of that.")
    return " ".join(sentences)


def _is_des(strategy: str) -> bool:
    spec = find_spec(strategy)
    return spec is not None and spec.substitutes


def render_report(
    result: Mapping[str, Any], *, cluster_svg: str = "", timeline: str | None = None, steps: Sequence[Row] = ()
) -> str:
    """The report as HTML text.

    `result` is result.json's content. `cluster_svg` is a drawing by dessim.cluster.drawing, `timeline` the name of the
    timeline file beside the report, `steps` rows for figures.predicted_vs_measured. Raises ValueError when the drawing
    could run or load something.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

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
        "strategy": lambda name: style_of(name).label,
        "color": lambda name: style_of(name).color,
        "tiny": _or_dash(lambda value: f"{value:.2g}"),
        "thousands": _or_dash(lambda value: f"{value:,.0f}"),
    }
    rows = fitting(result["projection"])
    too_large = [r for r in result["projection"] if r.get("does_not_fit")]
    result = {**result, "projection": rows}
    uncertainty = _uncertainty(result)
    return environment.get_template("report.html.j2").render(
        r=result,
        answer=answer(result),
        uncertainty=uncertainty,
        winners=winners(rows, uncertainty),
        provenance=_provenance(rows),
        caveats=[
            {"strategy": strategy, "text": text}
            for strategy, text in dict.fromkeys((r["strategy"], r.get("caveat")) for r in rows)
            if text
        ]
        + [{"strategy": r["strategy"], "text": r["does_not_fit"]} for r in too_large],
        throughput=Markup(figures.throughput(rows)) if rows else "",
        breakdown=Markup(figures.step_breakdown(rows)) if rows else "",
        sent=Markup(figures.bytes_per_worker(rows)) if rows else "",
        bound=_bound(max(rows, key=lambda r: (r["gpus"], r["samples_per_s"])), "projected") if rows else None,
        replay_bound=_bound(result["replay"], "replayed"),
        step_times=Markup(figures.predicted_vs_measured(steps)) if steps else "",
        cluster_svg=Markup(_drawing(cluster_svg)) if cluster_svg else "",
        timeline=timeline,
    )


def write_report(path: str | Path, result: Mapping[str, Any], **parts: Any) -> None:
    """Write the report atomically; `parts` as in `render_report`."""
    write_text(path, render_report(result, **parts))


def _bound(row: Row, which: str) -> dict[str, Any]:
    """What the report shows of why a step takes as long as it does: its critical path, the links' use, what changes
    would buy. `which` names it apart from others."""
    from markupsafe import Markup

    used = row["utilisation"]
    title = f"Utilisation of links, {which}"
    return {
        "row": row,
        "path": row["critical_path"],
        "what_if": row.get("what_if") or [],
        "use": Markup(figures.utilisation(used, title=title)) if used["share"] else "",
        "links": [
            {"kind": kind, "bytes": row["bytes_by_link"][kind], "mean": mean, "peak": used["peak_share"][kind]}
            for kind, mean in used["mean_share"].items()
        ],
    }


def _or_dash(text: Any) -> Any:
    return lambda value: "–" if value is None else text(value)


def _uncertainty(result: Mapping[str, Any]) -> float:
    error = result.get("prediction_error")
    return ASSUMED_ERROR if error is None else max(abs(error), 0.01)


def _scales(gpus: Sequence[int]) -> str:
    if len(gpus) == 1:
        return f"at {gpus[0]:,} GPUs"
    return f"from {gpus[0]:,} to {gpus[-1]:,} GPUs"


def _leads(block: Sequence[Winner]) -> str:
    low, high = (f(w.lead for w in block if w.lead is not None) for f in (min, max))
    return percent(high) if percent(low) == percent(high) else f"{percent(low)[:-2]} to {percent(high)}"


def _ahead(block: Sequence[Winner]) -> str:
    """`12 to 30 % ahead of`, or `2.5 to 4 times as fast as` once percentages stop meaning anything."""
    leads = [w.lead for w in block if w.lead is not None]
    if min(leads) < 1:
        return f"{_leads(block)} ahead of"
    low, high = (f"{f(leads) + 1:.2g}" for f in (min, max))
    return f"{low if low == high else f'{low} to {high}'} times as fast as"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"the next ({', '.join(names)})"


def _provenance(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Where the projection's numbers come from: one entry a source, with the rows it covers."""
    cover: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for what, source in row["provenance"].items():
            cover.setdefault((what, str(source)), []).append(row)
    names = {"sizes": "bytes and FLOPs of each op", "compute": "compute times", "communication": "communication times"}
    everyone = {r["strategy"] for r in rows}
    entries = []
    for (what, source), covered in sorted(
        cover.items(), key=lambda item: list(names).index(item[0][0]) if item[0][0] in names else 9
    ):
        strategies = list(dict.fromkeys(style_of(r["strategy"]).label for r in covered))
        scales = sorted({r["gpus"] for r in covered})
        who = "all strategies" if len(strategies) == len(everyone) else ", ".join(strategies)
        where = f"{scales[0]:,}" if len(scales) == 1 else f"{scales[0]:,} to {scales[-1]:,}"
        entries.append(
            {
                "what": names.get(what, what),
                "kinds": [kind for kind in SOURCES if kind in source.lower()],
                "source": source,
                "covers": f"{where} GPUs, {who}",
            }
        )
    return entries


def _drawing(svg: str) -> str:
    if _FORBIDDEN.search(svg):
        raise ValueError("the cluster drawing holds something that could run or load; it must be plain SVG")
    return inline(svg, "cluster")
