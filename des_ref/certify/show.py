"""What a certificate says: whether it is green, as one JSON object, as a table, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from des_ref.certify.case import Case

PARAMETER_BOUND = 1e-12  # docs: validation, the trainer
NAN_BOUND = 1e300  # a NaN counts as the largest float
_AXES = ("ranks", "strategy", "model", "placement", "optimizer")
Result = Mapping[str, Any]


def passed(case: Result) -> bool:
    """Whether every bound holds that the strategy promises. Of ps_async, its bytes and its bound of staleness are
    promised; that it trains otherwise than one process is said, and no failure. Of codecs, bytes and no NaN."""
    if "error" in case:
        return False
    if "staleness" in case and not case["staleness"]["max"] <= case["staleness"]["bound"]:
        return False
    bound = PARAMETER_BOUND if case["equivalent"] else NAN_BOUND
    return case["bytes_match"] and case["max_param_diff"] <= bound


def summary(cases: Sequence[Case], results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """The JSON object. Of many cases, the ops of failed ones only: the others moved the planned bytes."""
    ran = [r for r in results if "error" not in r]
    # What is not equivalent says so itself; it counts where there is nothing else.
    exact = [r for r in ran if r["equivalent"]] or ran
    first, many = cases[0], cases[0].small

    def common(axis: str) -> str | None:
        values = {getattr(case, axis) for case in cases}
        return values.pop() if len(values) == 1 else None

    return {
        "schema_version": 1,
        "ok": all(map(passed, results)),
        "count": len(results),
        "red": sum(not passed(r) for r in results),
        **{axis: common(axis) for axis in ("strategy", "model", "placement", "optimizer")},
        "equivalent": all(r["equivalent"] for r in ran),
        "pipeline": first.pipeline,
        "steps": first.steps,
        "bound": PARAMETER_BOUND,
        "max_param_diff": max((r["max_param_diff"] for r in exact), default=None),
        "bytes_match": len(ran) == len(results) and all(r["bytes_match"] for r in ran),
        "seconds": round(seconds, 1),
        "cases": [{k: v for k, v in r.items() if not (many and k == "ops" and passed(r))} for r in results],
    }


def staleness(case: Result) -> str:
    stale = case["staleness"]
    return (
        f"{'equivalent' if case['equivalent'] else 'not equivalent'}; a pull was {stale['mean']:.2f} steps stale on "
        f"average, {stale['max']} at most (bound {stale['bound']}); {stale['missed_mean']:.2f} pushes of others came "
        f"between it and its own push, {stale['missed_max']} at most"
    )


def lossy(case: Result) -> str:
    """What codecs changed: of what was sent, the root of the mean square of the change over that of the values."""
    lost = ", ".join(f"{name} {share:.1e}" for name, share in case["lost"].items())
    return (
        f"not equivalent, because {case['codecs']} is lossy: parameters within {case['max_param_diff']:.1e} of one "
        f"process; relative error of what was sent: {lost}"
    )


def why(case: Result) -> str:
    """Why a case failed."""
    if "error" in case:
        return case["error"]
    parts = []
    if not case["max_param_diff"] <= NAN_BOUND:
        parts.append("parameters are NaN")
    elif case["equivalent"] and not case["max_param_diff"] <= PARAMETER_BOUND:
        parts.append(f"parameters differ by {case['max_param_diff']:.2e}")
    parts += [
        f"{op['name']} moved {op['recorded_bytes']:,} bytes, {op['formula_bytes']:,} planned"
        for op in case["ops"]
        if op["mismatches"]
    ]
    if "staleness" in case and case["staleness"]["max"] > case["staleness"]["bound"]:
        parts.append(f"{case['staleness']['max']} steps stale, {case['staleness']['bound']} allowed")
    return "; ".join(parts)


def print_table(results: Sequence[Result]) -> None:
    """The cases of one strategy, a line each, and where the bytes of the last one went."""
    print(f"{results[0]['strategy']} against one process, float64, unowned rows poisoned with NaN\n")
    print("ranks   max|d loss|   max|d grad|  max|d param|   bytes")
    for case in results:
        keys = ("max_loss_diff", "max_grad_diff", "max_param_diff")
        diffs = "".join(f"{case[key]:14.2e}" if key in case else f"{'':14s}" for key in keys)
        verdict = "equal" if case["bytes_match"] else "DIFFER"
        print(f"{case['ranks']:5d}{diffs}   {verdict}{'' if passed(case) else '   FAILED'}")
    for case in results:
        if "codecs" in case:
            print(f"\n{case['ranks']} ranks: {lossy(case)}")
        if "staleness" in case:
            print(f"\n{case['ranks']} ranks and {case['servers']} server: {staleness(case)}")
    print(f"\nbytes over all steps and ranks, {results[-1]['ranks']} ranks")
    for op in results[-1]["ops"]:
        print(f"  {op['name']:20s}{op['recorded_bytes']:14d} recorded{op['formula_bytes']:14d} = {op['formula']}")


def print_matrix(results: Sequence[Result], seconds: float) -> None:
    """Print many cases, counted by each choice, and the failed ones by name."""
    print("against one process, float64, unowned rows poisoned with NaN\n")
    for axis in _AXES:
        print(f"{axis:22s}cases  failed  max|d param|   bytes")
        for line in by_axis(results, axis):
            worst = f"{line['worst']:14.2e}" if line["worst"] is not None else f"{'not equivalent':>14s}"
            print(
                f"  {line['choice']!s:20s}{line['cases']:5d}{line['red']:8d}{worst}   "
                f"{'equal' if line['bytes_match'] else 'DIFFER'}"
            )
        print()
    for line in stale_lines(results):
        print(line)
    for case in results:
        if not passed(case):
            print(f"FAILED {case['case']}: {why(case)}")
    print(f"{len(results)} cases, failed cases: {sum(not passed(r) for r in results)}, {seconds:.0f} s")


def by_axis(results: Sequence[Result], axis: str) -> list[dict[str, Any]]:
    """For each choice on an axis: cases, failed ones, the largest difference of a parameter of exact ones."""
    lines = []
    for choice in dict.fromkeys(r[axis] for r in results):
        here = [r for r in results if r[axis] == choice]
        # One worker alone is exact whatever the strategy: that says nothing of the strategy.
        is_exact = axis != "strategy" or all(r.get("equivalent", True) for r in here)
        diffs = [r["max_param_diff"] for r in here if r.get("equivalent") and is_exact]
        lines.append(
            {
                "choice": choice,
                "cases": len(here),
                "red": sum(not passed(r) for r in here),
                "worst": max(diffs, default=None),
                "bytes_match": all(r.get("bytes_match") for r in here),
            }
        )
    return lines


def stale_lines(results: Sequence[Result]) -> list[str]:
    """How stale ps_async was, a line for each number of workers."""
    lines = []
    stale = [r for r in results if "staleness" in r]
    for ranks in dict.fromkeys(r["ranks"] for r in stale):
        here = [r for r in stale if r["ranks"] == ranks]
        tallies = [r["staleness"] for r in here]
        mean = sum(t["mean"] for t in tallies) / len(tallies)
        most, bound = (max(t[key] for t in tallies) for key in ("max", "bound"))
        differ = max(r["max_param_diff"] for r in here)
        exact = "equivalent" if all(r["equivalent"] for r in here) else "not equivalent"
        lines.append(
            f"ps_async, {ranks} worker{'s' * (ranks > 1)}: {exact}, parameters within {differ:.1e} of one "
            f"process; pulls {mean:.2f} steps stale on average, {most} at most (bound {bound})"
        )
    return lines
