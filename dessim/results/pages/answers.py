"""Sentences that answer a projection: which strategy is fastest at which scale, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from dessim.results.error_bar import is_tie
from dessim.results.rows import Row, contenders
from dessim.results.style import strategy_label
from dessim.units import format_count, format_time, percent
from dessim.workload.strategies import find_spec

ASSUMED_ERROR = 0.05  # of predictions that no measurement was compared with; a smaller lead is a tie. Assumed
_SMALLEST_ERROR = 0.01  # a smaller error on one run does not make every prediction that accurate


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


def fastest_by_scale(rows: Sequence[Row], uncertainty: float = ASSUMED_ERROR) -> list[FastestStrategy]:
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


def answer(rows: Sequence[Row], cluster: str, uncertainty: float = ASSUMED_ERROR) -> list[str]:
    """Sentences: which strategy is fastest at which scale of `cluster`; then what its step does at the largest scale.

    `uncertainty` is as in `fastest_by_scale`.
    """
    if not rows:
        return ["Nothing was projected, so this report compares no strategies."]
    fastest = fastest_by_scale(rows, uncertainty)
    if not fastest:
        return ["Only lower bounds were projected, so this report compares no strategies."]
    blocks = [list(block) for _, block in groupby(fastest, key=lambda f: (f.strategy, f.is_tie))]
    sentences = [f"On {cluster}: " + "; ".join(map(_clause, blocks)) + "."]
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
    return sentences


def uncertainty_of(prediction_error: float | None) -> float:
    """The relative error to assume, from that of one measured run."""
    return ASSUMED_ERROR if prediction_error is None else max(abs(prediction_error), _SMALLEST_ERROR)


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
    low = percent(min(leads))
    high = percent(max(leads))
    return high if low == high else f"{low[:-2]} to {high}"


def _lead_in_words(block: Sequence[FastestStrategy]) -> str:
    """`12 to 30 % ahead of`, or `2.5 to 4 times as fast as` where a percentage would exceed 100."""
    leads = [f.lead for f in block if f.lead is not None]
    if min(leads) < 1:
        return f"{_lead_range(block)} ahead of"
    low = f"{min(leads) + 1:.2g}"
    high = f"{max(leads) + 1:.2g}"
    return f"{low if low == high else f'{low} to {high}'} times as fast as"
