"""`make bench`: time dessim and SimGrid in one run, and dessim as clusters grow.

    python tests/bench/run.py                 # everything, about ten minutes; writes docs/bench*
    python tests/bench/run.py --only ring     # the works with "ring" in their names; writes nothing
    python tests/bench/run.py --skip uneven   # everything except these, which take SimGrid minutes
    python tests/bench/run.py --part curve    # only the cost against N

Times are CPU seconds of whole processes on one core, dessim and SimGrid in turn: the median of three runs, or one run
if it takes longer than LONG_RUN_S. Absolute times on a shared machine mean little: read the ratio. Exits 3 when an
answer is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dessim.files import write_json, write_text  # noqa: E402
from tests.bench import works  # noqa: E402
from tests.bench.figure import cost_figure  # noqa: E402
from tests.bench.measure import Cost, cpu_name, measure, median  # noqa: E402
from tests.bench.tables import markdown, with_tables  # noqa: E402
from tests.validation import peer  # noqa: E402

DOCS = ROOT / "docs"
RUNS = 3
LONG_RUN_S = 20.0


def run_work(work: works.Work, limit_s: float, peer_runs: dict[str, list[Cost]]) -> dict[str, Any]:
    """Time both programs in turn and compare their answers. `peer_runs` caches SimGrid's runs by command."""
    mine: list[Cost] = []
    is_known = work.peer is not None and str(work.peer) in peer_runs
    theirs = peer_runs.setdefault(str(work.peer), [])
    for _ in range(RUNS):
        if work.peer is not None and not is_known and _more(theirs):
            theirs.append(measure(work.peer, limit_s))
        if _more(mine):
            mine.append(measure(work.dessim, limit_s))
    cost = median(mine)
    row: dict[str, Any] = {"work": work.name, "dessim": _cost(cost, mine), "simgrid": None, "problems": []}
    row |= {"limit_s": work.limit_s, "limit_MiB": work.limit_MiB}
    if not cost.ok:
        row["problems"].append(_reason(cost, limit_s))
        return row | ({"simgrid": _cost(median(theirs), theirs)} if theirs else {})
    answer = json.loads(cost.output)
    row["answer"] = {k: answer[k] for k in sorted(answer) if isinstance(answer[k], int | float | str)}
    time_s = answer.get("time_s")
    if work.answer_s is not None:
        _compare(row, "the known answer", time_s, work.answer_s, work.rel)
    if theirs:
        _against_peer(row, work, runs=theirs, time_s=time_s, limit_s=limit_s)
    return row


def _against_peer(row: dict[str, Any], work: works.Work, *, runs: list[Cost], time_s: float, limit_s: float) -> None:
    """Add SimGrid's cost, the ratio and the agreement of the answers to `row`."""
    theirs = median(runs)
    row["simgrid"] = _cost(theirs, runs)
    mine = row["dessim"]
    row["ratio"] = theirs.cpu_s / mine["cpu_s"]
    if not theirs.ok:
        if not theirs.timed_out:
            row["problems"].append(f"SimGrid: {_reason(theirs, limit_s)}")
        return
    ends = [float(line) for line in theirs.output.split()]
    _compare(row, "SimGrid", time_s, max(ends), work.rel)
    if work.finishes:
        check = measure(work.finishes, 10 * limit_s)
        if not check.ok:
            row["problems"].append(f"finish times: {_reason(check, 10 * limit_s)}")
            return
        worst = max(abs(a / b - 1) for a, b in zip(json.loads(check.output), ends, strict=True))
        row["worst_finish"] = worst
        if worst > 1e-6:
            row["problems"].append(f"a message finishes {worst:.2g} away from SimGrid's time")


def _more(runs: list[Cost]) -> bool:
    return not runs or (len(runs) < RUNS and runs[0].ok and runs[0].cpu_s < LONG_RUN_S)


def _compare(row: dict[str, Any], reference: str, answer_s: float, expected_s: float, rel: float) -> None:
    error = answer_s / expected_s - 1
    row[f"error_against_{reference.split()[-1].lower()}"] = error
    if abs(error) > rel:
        row["problems"].append(f"{answer_s:.9g} s, {reference} says {expected_s:.9g} s")


def _cost(cost: Cost, runs: list[Cost]) -> dict[str, Any]:
    return {
        "cpu_s": cost.cpu_s,
        "wall_s": cost.wall_s,
        "peak_rss_MiB": cost.rss_MiB,
        "stopped": cost.timed_out,
        "runs": len(runs),
    }


def _reason(cost: Cost, limit_s: float) -> str:
    last = (cost.errors.strip().splitlines() or [""])[-1]
    return f"stopped after {limit_s:g} s" if cost.timed_out else f"exit status {cost.status}: {last}"


def run_curves(folder: Path, limit_s: float) -> list[dict[str, Any]]:
    """Measure each line until a point exceeds the limit, or would if the growth continued."""
    rows = []
    for line, points in works.curves(folder).items():
        before = last = 0.0
        for n, command in points:
            if before and last * last / before > limit_s:
                break
            cost = measure(command, limit_s)
            if not cost.ok:
                _say(f"{line}, {n:,}: {_reason(cost, limit_s)}")
                break
            before, last = last, cost.cpu_s
            rows.append({"work": line, "gpus": n, "cpu_s": cost.cpu_s, "peak_rss_MiB": cost.rss_MiB})
            _say(f"{line}, {n:,}: {cost.cpu_s:.2f} s, {cost.rss_MiB:.0f} MiB")
    return rows


def machine() -> dict[str, Any]:
    """Describe the machine and the versions behind the numbers."""
    import numpy

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "simgrid": peer.version(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="works whose name contains this; writes nothing")
    parser.add_argument("--skip", default="", help="leave out the works whose name contains this")
    parser.add_argument("--part", choices=("works", "curve"), help="one of the two parts (default: both)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a process is stopped")
    parser.add_argument("--curve-limit", type=float, default=30.0, help="the same limit for a point of the curve")
    options = parser.parse_args()
    os.chdir(ROOT)
    result: dict[str, Any] = {"schema_version": 1, "machine": machine(), "limit_s": options.limit, "skipped": []}
    peer_runs: dict[str, list[Cost]] = {}
    broken = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure([sys.executable, "-m", "dessim", "--version"], 60)  # byte-compiles modules that were never imported
        for part, listed in (("peer", works.against_the_peer(folder)), ("alone", works.alone(folder))):
            result[part] = []
            for work in listed:
                if options.part == "curve" or options.only not in work.name:
                    continue
                if options.skip and options.skip in work.name:
                    result["skipped"].append(work.name)
                    continue
                row = run_work(work, options.limit, peer_runs)
                result[part].append(row)
                _say(f"{row['work']}: {row['dessim']['cpu_s']:.2f} s {'; '.join(row['problems'])}")
                broken += bool(row["problems"])
        if options.part != "works" and not options.only:
            points = run_curves(folder, options.curve_limit)
            write_text(DOCS / "bench-cost.svg", cost_figure(points, DOCS / "bench-cost.csv"))
    print(markdown(result))  # noqa: T201
    if options.part != "curve" and not options.only:
        write_json(DOCS / "bench.json", result)
        page = DOCS / "bench.md"
        write_text(page, with_tables(page.read_text(), markdown(result)))
    return 3 if broken else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
