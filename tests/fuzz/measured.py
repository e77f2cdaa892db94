"""Files of what was measured: traces, profiles, logs of nccl-tests, results of benchmarks, click logs, measurements."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

from typer.testing import CliRunner

from dessim.calibrate.bench import Bench, load_benches
from dessim.calibrate.nccl.logs import read_logs
from dessim.calibrate.nccl.profile import fit_nccl_logs
from dessim.calibrate.nccl.profile import to_toml as nccl_toml
from dessim.calibrate.profile import fit_bench, to_toml
from dessim.cli.app import app
from dessim.cli.validate import read_measured
from dessim.cluster import load_cluster
from dessim.commands.ids import IdsRequest, run_ids
from dessim.commands.replay import replay
from dessim.commands.trace_collectives import predict_collectives
from dessim.files import dump_json
from dessim.results.show import print_predicted_trace, print_replay, print_trace
from dessim.trace.check import check_trace
from dessim.trace.describe import describe_trace
from dessim.trace.importers.kineto import Imported, import_kineto
from dessim.trace.io import HEADER_FILE, Trace, load_trace, rank_file
from dessim.validate.collectives import collective_cases
from dessim.validate.request import read_cases
from dessim.workload.formula import evaluate
from dessim.workload.id_logs.measure import MeasuredLog
from dessim.workload.scale import Job
from tests.calibrate.nccl.logs import TIMES, log
from tests.calibrate.test_messages import TRUE, bench
from tests.fuzz.formats import ROOT, Format, budget, files, projected, shipped, shown
from tests.fuzz.mutate import mutated_bytes, mutated_json, mutated_lines
from tests.workload.id_logs.logs import criteo_lines

_TRACE = ROOT / "tests/golden/inputs/tiny.trace"
_PROFILES = "tests/golden/inputs/profiles"
_BED = "lab/switch_8"
_RANKS = 2


# -- traces ------------------------------------------------------------------------------------------------------


def _trace_seeds() -> list[bytes]:
    """The trace as lines: its header, and every op with its rank before it."""
    header = json.dumps(json.loads((_TRACE / HEADER_FILE).read_bytes())).encode()
    ops = [
        b"%d%s" % (rank, op)
        for rank in range(_RANKS)
        for op in gzip.decompress((_TRACE / rank_file(rank)).read_bytes()).splitlines()
    ]
    return [b"\n".join([header, *ops])]


def mutated_trace(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A trace as lines of which the header has changed, or up to three ops, or any."""
    lines = data.split(b"\n")
    change = rng.randrange(6)
    if change == 0:
        return mutated_lines(data, rng, seeds)
    if change < 3:
        lines[0] = mutated_json(lines[0], rng, ()).replace(b"\n", b" ")
    for _ in range(rng.randrange(1, 4) if change > 1 else 0):
        at = rng.randrange(len(lines))
        lines[at] = lines[at][:1] + mutated_json(lines[at][1:], rng, ()).replace(b"\n", b" ")
    return b"\n".join(lines)


def _trace_of_lines(path: Path) -> Trace:
    header, *lines = path.read_bytes().split(b"\n")
    ranks: tuple[list[bytes], ...] = tuple([] for _ in range(_RANKS))
    for line in lines:
        ranks[line[:1] == b"1"].append(line[1:])
    packed = [gzip.compress(b"".join(op + b"\n" for op in own), 1) for own in ranks]
    return _trace(path, header, packed)


def _trace_with_rank(path: Path) -> Trace:
    """The trace with this file for its second rank."""
    return _trace(path, (_TRACE / HEADER_FILE).read_bytes(), [(_TRACE / rank_file(0)).read_bytes(), path.read_bytes()])


def _trace(path: Path, header: bytes, packed: Sequence[bytes]) -> Trace:
    folder = path.with_suffix(".trace")
    folder.mkdir(exist_ok=True)
    (folder / HEADER_FILE).write_bytes(header)
    for rank, content in enumerate(packed):
        (folder / rank_file(rank)).write_bytes(content)
    return load_trace(folder)


def _use_trace(trace: Trace) -> None:
    check_trace(trace, evaluate)
    dump_json(describe_trace(trace))
    shown(print_trace, describe_trace(trace))
    found = replay(trace, shipped(), progress=budget()).to_json()
    dump_json(found)
    shown(print_replay, found)
    predicted = predict_collectives(trace, shipped()).to_json()
    dump_json(predicted)
    shown(print_predicted_trace, predicted)
    projected(Job.of_trace(trace), gpus=_RANKS, strategies=("des_all_reduce",))


def _profile(path: Path) -> Imported:
    """The import of two profiles, of which this file is the second."""
    return import_kineto([ROOT / _PROFILES / "worker1.pt.trace.json", path], "imported")


# -- measurements --------------------------------------------------------------------------------------------------


def _log_seeds() -> list[bytes]:
    result = {"size": 1 << 20, "type": "float", "out_of_place": {"time": 36.9, "alg_bw": 28.4, "bus_bw": 49.7}}
    as_json = {"version": "2.17.6", "name": "all_reduce_perf", "ranks": 8, "results": [result] * 4}
    texts = (log(), log("alltoall", TIMES[3:]), log(ranks=16, hosts=2), json.dumps(as_json))
    return [text.encode() for text in texts]


def _log(path: Path) -> Path:
    read_logs(path)
    return path


def _fit_log(path: Path) -> None:
    nccl_toml(fit_nccl_logs([path], shipped("h100-8x_rail_128")))


def _bench_seeds() -> list[bytes]:
    return [json.dumps(bench(load_cluster(_BED), TRUE)).encode()]


def _fit_bench(found: Bench) -> None:
    to_toml(fit_bench(found, shipped(_BED), {"results": "here"}))


def _ids(path: Path) -> MeasuredLog:
    return run_ids(IdsRequest((path,), path.with_suffix(".ids.toml")))


def _measured_seeds() -> list[bytes]:
    kept = {"cluster": _BED, "where": {}, "bench": bench(load_cluster(_BED), TRUE)}
    cases = collective_cases(read_cases(), ("held_out",), quick=True)
    found = {"scale": {case.bed: 0.5 for case in cases}, "seconds": {case.name: [0.01] for case in cases}}
    return [json.dumps({"calibration": kept, "collectives": found}).encode()]


def _validate(path: Path) -> None:
    words = ["validate", "--lab", "--quick", "--kinds", "collectives", "--measured", str(path), "--json"]
    found = CliRunner().invoke(app, words)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    if found.stderr.count("\n") > 1:
        raise AssertionError(f"several lines: {found.stderr}")


FORMATS = (
    Format("trace", ".jsonl", mutated_trace, _trace_seeds, _trace_of_lines, _use_trace, use_every=8),
    Format(
        "trace_rank",
        ".gz",
        mutated_bytes,
        files("tests/golden/inputs/tiny.trace/rank-00001*"),
        _trace_with_rank,
        _use_trace,
        use_every=8,
    ),
    Format("profile", ".json", mutated_json, files(f"{_PROFILES}/worker2*"), _profile),
    Format("nccl_tests", ".log", mutated_lines, _log_seeds, _log, _fit_log),
    Format("nccl_tests_json", ".json", mutated_json, lambda: _log_seeds()[-1:], _log, _fit_log),
    Format("bench", ".json", mutated_json, _bench_seeds, lambda path: load_benches([path]), _fit_bench),
    Format("measured", ".json", mutated_json, _measured_seeds, read_measured, _validate, use_every=8),
    Format("clicks", ".txt", mutated_lines, lambda: [criteo_lines(120)], _ids),
)
