"""The verdict of a certificate, its JSON object, and its tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from des_ref.certify.case import Case

PARAMETER_BOUND = 1e-12  # docs: validation, the trainer
NAN_BOUND = 1e300  # a NaN counts as the largest float
_AXES = ("ranks", "strategy", "model", "placement", "optimizer")
Result = Mapping[str, Any]


def passed(case: Result) -> bool:
    """Whether every bound holds that the strategy promises.

    ps_async promises its bytes and its bound of staleness; that it trains differently from one process is reported and
    is not a failure. Codecs promise their bytes, and no NaN.
    """
    if "error" in case:
        return False
    if "staleness" in case and not case["staleness"]["max"] <= case["staleness"]["bound"]:
        return False
    bound = PARAMETER_BOUND if case["equivalent"] else NAN_BOUND
    return case["bytes_match"] and case["max_param_diff"] <= bound


def summary(cases: Sequence[Case], results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """The JSON object. `red` is the number of failed cases.

    With many cases, only failed ones list their ops: those of the others moved what the plan says.
    """
    ran = [r for r in results if "error" not in r]
    # The largest difference is that of exact cases; of inexact ones only where there are no others.
    exact = [r for r in ran if r["equivalent"]] or ran
    first = cases[0]
    omits_ops = first.small

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
        "cases": [{k: v for k, v in r.items() if not (omits_ops and k == "ops" and passed(r))} for r in results],
    }


def staleness(case: Result) -> str:
    """How stale a case of ps_async was, in words."""
    s = case["staleness"]
    return (
        f"{_equivalence(case['equivalent'])}; pulls were {s['mean']:.2f} steps stale on average, {s['max']} at most "
        f"(bound {s['bound']}); {s['missed_mean']:.2f} pushes by other workers were applied between a pull and the "
        f"worker's own push on average, {s['missed_max']} at most"
    )


def lossy(case: Result) -> str:
    """The changes by codecs: for each op, the RMS of the change relative to the RMS of the values sent."""
    lost = ", ".join(f"{name} {share:.1e}" for name, share in case["lost"].items())
    return (
        f"not equivalent, because {case['codecs']} is lossy: parameters within {case['max_param_diff']:.1e} of one "
        f"process; relative error of the values sent: {lost}"
    )


def why(case: Result) -> str:
    """Why a case failed."""
    if "error" in case:
        return case["error"]
    reasons = []
    if not case["max_param_diff"] <= NAN_BOUND:
        reasons.append("parameters are NaN")
    elif case["equivalent"] and not case["max_param_diff"] <= PARAMETER_BOUND:
        reasons.append(f"parameters differ by {case['max_param_diff']:.2e}")
    reasons += [
        f"{op['name']} moved {op['recorded_bytes']:,} bytes, {op['formula_bytes']:,} planned"
        for op in case["ops"]
        if op["mismatches"]
    ]
    if "staleness" in case and case["staleness"]["max"] > case["staleness"]["bound"]:
        reasons.append(f"{case['staleness']['max']} steps stale, {case['staleness']['bound']} allowed")
    return "; ".join(reasons)


def print_table(results: Sequence[Result]) -> None:
    """Print the cases of one strategy, one line each, and the bytes of each op of the last one."""
    last = results[-1]
    print(f"{results[0]['strategy']} against one process, float64; rows that a rank does not own are NaN\n")
    print("ranks   max|d loss|   max|d grad|  max|d param|   bytes")
    for case in results:
        keys = ("max_loss_diff", "max_grad_diff", "max_param_diff")
        differences = "".join(f"{case[key]:14.2e}" if key in case else f"{'':14s}" for key in keys)
        verdict = "" if passed(case) else "   FAILED"
        print(f"{case['ranks']:5d}{differences}   {_bytes_verdict(case['bytes_match'])}{verdict}")
    for case in results:
        if "codecs" in case:
            print(f"\n{case['ranks']} ranks: {lossy(case)}")
        if "staleness" in case:
            print(f"\n{case['ranks']} ranks and {case['servers']} server: {staleness(case)}")
    print(f"\nbytes over all steps and ranks, {last['ranks']} ranks")
    for op in last["ops"]:
        print(f"  {op['name']:20s}{op['recorded_bytes']:14d} recorded{op['formula_bytes']:14d} = {op['formula']}")


def print_matrix(results: Sequence[Result], seconds: float) -> None:
    """Print counts of cases by each choice on each axis, and the failed cases by name."""
    print("against one process, float64; rows that a rank does not own are NaN\n")
    for axis in _AXES:
        print(f"{axis:22s}cases  failed  max|d param|   bytes")
        for line in by_axis(results, axis):
            worst = f"{line['worst']:14.2e}" if line["worst"] is not None else f"{'not equivalent':>14s}"
            counts = f"{line['cases']:5d}{line['failed']:8d}"
            print(f"  {line['choice']!s:20s}{counts}{worst}   {_bytes_verdict(line['bytes_match'])}")
        print()
    for text in stale_lines(results):
        print(text)
    for case in results:
        if not passed(case):
            print(f"FAILED {case['case']}: {why(case)}")
    print(f"cases: {len(results)}, failed cases: {sum(not passed(r) for r in results)}, time: {seconds:.0f} s")


def by_axis(results: Sequence[Result], axis: str) -> list[dict[str, Any]]:
    """One dict per choice on an axis: the choice, its cases, how many failed, and the largest parameter difference.

    The difference is that of equivalent cases; None where a choice has none.
    """
    lines = []
    for choice in dict.fromkeys(r[axis] for r in results):
        cases = [r for r in results if r[axis] == choice]
        # One worker alone is exact under any strategy, so an inexact strategy shows no difference for it.
        is_exact = axis != "strategy" or all(r.get("equivalent", True) for r in cases)
        differences = [r["max_param_diff"] for r in cases if r.get("equivalent") and is_exact]
        lines.append(
            {
                "choice": choice,
                "cases": len(cases),
                "failed": sum(not passed(r) for r in cases),
                "worst": max(differences, default=None),
                "bytes_match": all(r.get("bytes_match") for r in cases),
            }
        )
    return lines


def stale_lines(results: Sequence[Result]) -> list[str]:
    """The staleness of ps_async in words, one line for each number of workers."""
    lines = []
    stale = [r for r in results if "staleness" in r]
    for ranks in dict.fromkeys(r["ranks"] for r in stale):
        cases = [r for r in stale if r["ranks"] == ranks]
        tallies = [r["staleness"] for r in cases]
        mean = sum(t["mean"] for t in tallies) / len(tallies)
        maximum = max(t["max"] for t in tallies)
        bound = max(t["bound"] for t in tallies)
        difference = max(r["max_param_diff"] for r in cases)
        lines.append(
            f"ps_async, {ranks} worker{'s' * (ranks > 1)}: {_equivalence(all(r['equivalent'] for r in cases))}; "
            f"parameters within {difference:.1e} of one process; pulls were {mean:.2f} steps stale on average, "
            f"{maximum} at most (bound {bound})"
        )
    return lines


def _equivalence(is_equivalent: bool) -> str:
    return "equivalent" if is_equivalent else "not equivalent"


def _bytes_verdict(is_equal: bool) -> str:
    return "equal" if is_equal else "DIFFER"
