"""The page of `dessim plan`: one HTML file that needs no other, like the demo's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dessim.files import write_text
from dessim.results.plan_figure import pareto, ranks
from dessim.results.report import caveats_of, page_environment, provenance_of
from dessim.results.show_plan import (
    chosen_scale,
    distinct_plans,
    plan_label,
    replicas_text,
    share_text,
    si,
    target_text,
)
from dessim.results.style import family_label, strategy_label
from dessim.units import format_count, format_time

Values = Mapping[str, Any]


def write_plan_report(path: str | Path, result: Values, names: Sequence[str]) -> None:
    """Write the page, whole or not at all. `result`: of `dessim plan --json`. `names`: of the model's tables."""
    write_text(path, render_plan_report(result, names))


def render_plan_report(result: Values, names: Sequence[str]) -> str:
    """The page as HTML text."""
    from markupsafe import Markup

    scale, several = chosen_scale(result), len(result["scales"]) > 1
    best = scale["plans"][0]
    environment = page_environment()
    environment.filters |= {"plan": plan_label, "family": family_label, "si": si, "share": share_text}
    return environment.get_template("plan.html.j2").render(
        r=result,
        scale=scale,
        best=best,
        plans=distinct_plans(scale),
        names=names or [""] * len(best["tables"]),
        answer=answer(result),
        throughput_interval=_interval(scale),
        is_priced=scale["dollars_per_h"] is not None,
        ranks=Markup(ranks(scale["by_rank"])),
        front=Markup(pareto(result["scales"])) if several else "",
        left_out=[*scale["refused"], *result["left_out"].values()],
        caveats=caveats_of(scale["plans"], ()),
        provenance=provenance_of(scale["plans"]),
        version=version("dessim"),
    )


def answer(result: Values) -> str:
    """The page's first paragraph: the plan, its speed, and its lead over each strategy alone."""
    scale = chosen_scale(result)
    best, alone = scale["plans"][0], scale["leads"]
    speed = f"{format_count(scale['samples_per_s'], 3)} samples/s, a step of {format_time(best['step_time_s'], 3)}"
    sentences = [f"{strategy_label(best['strategy'])} on {scale['gpus']:,} GPUs trains {speed}."]
    if result["target"] is not None:
        sentences.append(f"{target_text(result)[0].upper()}{target_text(result)[1:]}.")
    if alone and best["tables"]:
        name = min(alone, key=lambda name: round(alone[name], 9))
        lead = share_text(alone[name])
        sentences.append(f"It is {lead} faster than {strategy_label(name)}, the best strategy for all tables.")
    if best["replicas"] > 1:
        sentences.append(f"It has {replicas_text(scale)}.")
    if scale["codecs"]:
        sentences.append(f"Its codecs, {scale['codecs']}, change what is trained.")
    ties = [plan_label(row) for row in distinct_plans(scale) if row["tie"]]
    if ties:
        sentences.append(f"May be as fast: {'; '.join(ties)}.")
    return " ".join(sentences)


def _interval(scale: Values) -> str:
    interval = scale["plans"][0].get("interval")
    if not interval:
        return "interval not known"
    low, high = (scale["batch"] / interval[end] for end in ("high_s", "low_s"))
    return f"80 % interval: {format_count(low, 3)} to {format_count(high, 3)}"
