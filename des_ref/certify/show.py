"""The verdict of a certificate, its JSON object, and its tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from des_ref.certify.case import Case
from dessim.units import counted

BOUND = 1e-12  # of any difference from one process
DIFFERENCES = {"max_loss_diff": "losses", "max_grad_diff": "gradients", "max_param_diff": "parameters"}
AS_IN_FILE = "as in the file"  # a pooling
NAN_BOUND = 1e300  # a NaN counts as the largest float
_AXES = ("ranks", "strategy", "model", "placement", "pooling", "optimizer")
Result = Mapping[str, Any]


def passed(case: Result) -> bool:
    """Whether every bound holds that the strategy promises.

    Loss, gradients and parameters are compared with one process; those of ps_async with one process that replays the
    order of pulls and pushes. ps_async also promises its bound of staleness. Codecs promise their bytes, and no NaN.
    """
    if "error" in case:
        return False
    if "staleness" in case and not case["staleness"]["max"] <= case["staleness"]["bound"]:
        return False
    return case["bytes_match"] and all(case[key] <= _bound(case) for key in DIFFERENCES)


def _bound(case: Result) -> float:
    return NAN_BOUND if "codecs" in case else BOUND


def summary(cases: Sequence[Case], results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """The JSON object. `red` is the number of failed cases.

    With many cases, only failed ones list their ops: those of the others moved what the plan says.
    """
    ran = [r for r in results if "error" not in r]
    # The largest differences are those of cases without a codec; of lossy ones only where there are no others.
    exact = [r for r in ran if "codecs" not in r] or ran
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
        **{axis: common(axis) for axis in ("strategy", "model", "placement", "pooling", "optimizer")},
        "equivalent": all(r["equivalent"] for r in ran),
        "pipeline": first.pipeline,
        "steps": first.steps,
        "bound": BOUND,
        **{key: max((r[key] for r in exact), default=None) for key in DIFFERENCES},
        "bytes_match": len(ran) == len(results) and all(r["bytes_match"] for r in ran),
        "not_seen": blind_spots(results),
        "seconds": round(seconds, 1),
        "cases": [{k: v for k, v in r.items() if not (omits_ops and k == "ops" and passed(r))} for r in results],
    }


def staleness(case: Result) -> str:
    """How stale a case of ps_async was, in words."""
    s = case["staleness"]
    return (
        f"{_equivalence(case['equivalent'])}; parameters within {case['max_param_diff']:.1e} of one process that "
        f"replays pulls and pushes, {case['synchronous_param_diff']:.1e} from synchronous training; pulls were "
        f"{s['mean']:.2f} steps stale on average, {s['max']} at most (bound {s['bound']}); {s['missed_mean']:.2f} "
        f"pushes by other workers were applied between a pull and the worker's own push on average, {s['missed_max']} "
        "at most"
    )


def lossy(case: Result) -> str:
    """The changes by codecs: for each op, the RMS of the change relative to the RMS of the values sent."""
    lost = ", ".join(f"{name} {share:.1e}" for name, share in case["lost"].items())
    return (
        f"not equivalent, because {case['codecs']} is lossy: parameters within {case['max_param_diff']:.1e} of one "
        f"process; relative error of the values sent: {lost}"
    )


def split_means(case: Result) -> str:
    """The comparison of a case that trains split rows under rowwise_adagrad, in words."""
    return (
        f"not equivalent to whole rows, because {case['optimizer']} takes a row's mean over each owner's columns, as "
        f"in TorchRec: parameters within {case['max_param_diff']:.1e} of one process that does so too"
    )


def why(case: Result) -> str:
    """Why a case failed."""
    if "error" in case:
        return case["error"]
    reasons = []
    for key, what in DIFFERENCES.items():
        if not case[key] <= NAN_BOUND:
            reasons.append(f"{what}: NaN")
        elif not case[key] <= _bound(case):
            reasons.append(f"{what} differ by {case[key]:.2e}")
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
        differences = "".join(f"{case[key]:14.2e}" for key in DIFFERENCES)
        verdict = "" if passed(case) else "   FAILED"
        print(f"{case['ranks']:5d}{differences}   {_bytes_verdict(case['bytes_match'])}{verdict}")
    for case in results:
        for key, text in (("codecs", lossy), ("split_means", split_means)):
            if key in case:
                print(f"\n{counted(case['ranks'], 'rank')}: {text(case)}")
        if "staleness" in case:
            workers = counted(case["ranks"], "worker")
            servers = counted(case["servers"], "server")
            print(f"\n{workers} and {servers}: {staleness(case)}")
    for text in blind_spots(results):
        print(f"\n{text}")
    print(f"\nbytes over all steps and ranks, {counted(last['ranks'], 'rank')}")
    for op in last["ops"]:
        print(f"  {op['name']:20s}{op['recorded_bytes']:14d} recorded{op['formula_bytes']:14d} = {op['formula']}")


def print_matrix(results: Sequence[Result], seconds: float) -> None:
    """Print counts of cases by each choice on each axis, and the failed cases by name."""
    print("against one process, float64; rows that a rank does not own are NaN\n")
    for axis in _AXES:
        lines = by_axis(results, axis)
        width = max(12, *(len(_choice(line)) + 2 for line in lines))
        print(f"{axis:{width}s}cases  failed  max|d loss|  max|d grad|  max|d param|   bytes")
        for line in lines:
            ran = line["max_loss_diff"] is not None
            differences = "".join(f"{line[key]:13.2e}" for key in DIFFERENCES) if ran else f"{'died':>39s}"
            verdict = _bytes_verdict(line["bytes_match"])
            print(f"  {_choice(line):{width - 2}s}{line['cases']:5d}{line['failed']:8d}{differences}    {verdict}")
        print()
    for text in [*stale_lines(results), *blind_spots(results)]:
        print(text)
    for case in results:
        if not passed(case):
            print(f"FAILED {case['case']}: {why(case)}")
    print(f"cases: {len(results)}, failed cases: {sum(not passed(r) for r in results)}, time: {seconds:.0f} s")


def by_axis(results: Sequence[Result], axis: str) -> list[dict[str, Any]]:
    """One dict per choice on an axis: the choice, its cases, how many failed, and the largest differences.

    The differences are None where no case of a choice ran to its end.
    """
    lines = []
    for choice in dict.fromkeys(r[axis] for r in results):
        cases = [r for r in results if r[axis] == choice]
        ran = [r for r in cases if "error" not in r]
        lines.append(
            {
                "choice": choice,
                "cases": len(cases),
                "failed": sum(not passed(r) for r in cases),
                **{key: max((r[key] for r in ran), default=None) for key in DIFFERENCES},
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
        replayed, synchronous = (max(r[key] for r in cases) for key in ("max_param_diff", "synchronous_param_diff"))
        lines.append(
            f"ps_async, {ranks} worker{'s' * (ranks > 1)}: {_equivalence(all(r['equivalent'] for r in cases))}; "
            f"parameters within {replayed:.1e} of one process that replays its pulls and pushes, and up to "
            f"{synchronous:.1e} from synchronous training; pulls were {mean:.2f} steps stale on average, {maximum} at "
            f"most (bound {bound})"
        )
    return lines


def blind_spots(results: Sequence[Result]) -> list[str]:
    """The faults that the numbers of ranks of this certificate cannot show, a line each."""
    ranks = {r["ranks"] for r in results}
    lines = []
    if max(ranks) < 2:
        lines.append("one rank alone: no message between ranks was checked; add --ranks 2,4")
    elif max(ranks) < 3:
        lines.append(
            "at most 2 ranks: each rank had one other rank only, so a fault in the order or the addressing of several "
            "other ranks does not show; add --ranks 4"
        )
    return lines


def _choice(line: Mapping[str, Any]) -> str:
    return AS_IN_FILE if line["choice"] is None else str(line["choice"])


def _equivalence(is_equivalent: bool) -> str:
    return "equivalent to synchronous training" if is_equivalent else "not equivalent to synchronous training"


def _bytes_verdict(is_equal: bool) -> str:
    return "equal" if is_equal else "DIFFER"
