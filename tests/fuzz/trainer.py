"""Files that the trainer reads: settings, checkpoints, lists of cases and of jobs, click logs. Imports torch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

from des_ref.bench_cases import load_cases
from des_ref.checkpoint import folder as checkpoints
from des_ref.checkpoint.resume import restore_run
from des_ref.comm import Comm, open_comm
from des_ref.config import load_settings
from des_ref.data.criteo import CriteoFile
from des_ref.embedding.lifetime import Lifetime
from des_ref.pipeline import Pipeline, endless
from des_ref.progress import Progress
from des_ref.step_jobs import load_jobs
from des_ref.strategies.base import Strategy
from dessim.calibrate.plan import calibration_cases
from dessim.files import dump_json, parse_json
from tests.des_ref.conftest import TINY
from tests.des_ref.test_checkpoint import _source, fresh, train_to_the_end
from tests.fuzz.formats import Format, files
from tests.fuzz.mutate import mutated_bytes, mutated_json, mutated_lines, mutated_toml
from tests.workload.id_logs.logs import criteo_lines

_ROWS = "rows-00000-of-00001.safetensors"
_RUN = {"a run": 1}
_lasting = ExitStack()
Restored = tuple[Strategy, Progress]


@lru_cache
def _work() -> tuple[Path, Comm]:
    """The folder of a small model, and the process group of this process; both last until `leave`."""
    folder = Path(_lasting.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
    (folder / "tiny.toml").write_text(TINY)
    return folder, _lasting.enter_context(open_comm("cpu"))


def _new() -> Strategy:
    folder, comm = _work()
    return fresh(folder / "tiny.toml", comm, "des_all_reduce", "hash", "adagrad", "Adam", Lifetime())


@lru_cache
def _checkpoint() -> Path:
    folder, comm = _work()
    train_to_the_end(_new(), comm, Progress(), folder / "kept")
    return checkpoints.newest_first(folder / "kept")[0]


@lru_cache
def _manifest() -> dict[str, Any]:
    return checkpoints.read_manifest(_checkpoint())


def leave() -> None:
    """Leave the process group, and delete the folder; what is run next joins anew."""
    for made in (_work, _checkpoint, _manifest):
        made.cache_clear()
    _lasting.close()


def _sealed(content: Mapping[str, Any]) -> Path:
    """The checkpoint with this content in its manifest, and its digest."""
    manifest = dict(content) | {"sha256": checkpoints._digest(content)}
    (_checkpoint() / checkpoints.MANIFEST).write_text(json.dumps(manifest))
    return _checkpoint()


def _with_manifest(path: Path) -> Restored:
    _manifest()
    try:
        content = parse_json(path.read_bytes())
    except ValueError:
        content = None
    if isinstance(content, dict):
        _sealed(content)
    else:
        (_checkpoint() / checkpoints.MANIFEST).write_bytes(path.read_bytes())
    checkpoints.check(_checkpoint())
    return _restored(_checkpoint())


def _with_rows(path: Path) -> Restored:
    content = json.loads(json.dumps(_manifest()))
    (_checkpoint() / _ROWS).write_bytes(path.read_bytes())
    written = checkpoints.Written.of(_checkpoint(), _ROWS)
    content["files"][_ROWS] = {"bytes": written.bytes, "sha256": written.sha256}
    return _restored(_sealed(content))


def _restored(checkpoint: Path) -> Restored:
    strategy = _new()
    return strategy, restore_run(strategy, checkpoint, _RUN, _work()[1])


def _train(restored: Restored) -> None:
    """Train a step, and note the progress as the next checkpoint would."""
    strategy, progress = restored
    comm = _work()[1]
    dump_json(progress.to_json())
    Pipeline(strategy, comm, endless(_source(), 64, comm, progress.steps, None), None).step()


def _lines(path: Path) -> None:
    source = CriteoFile(path)
    for _ in source.batches(0, 16, 0, 1):
        pass


_JOBS = {
    "jobs": [
        {"strategy": "des_all_reduce", "model": "fm", "batch": 64, "steps": 4},
        {"strategy": "table_wise", "model": "deepfm_ml100k", "batch": 64, "warmup": 1, "samples": 640},
    ]
}

FORMATS = (
    Format("settings", ".toml", mutated_toml, files("des_ref/configs/*.toml"), lambda path: load_settings(path, {})),
    Format("manifest", ".json", mutated_json, lambda: [json.dumps(_manifest()).encode()], _with_manifest, _train),
    Format("rows", ".safetensors", mutated_bytes, lambda: [(_checkpoint() / _ROWS).read_bytes()], _with_rows, _train),
    Format(
        "cases",
        ".json",
        mutated_json,
        lambda: [json.dumps({"cases": calibration_cases(4)}).encode()],
        lambda path: load_cases(path, 4),
    ),
    Format("jobs", ".json", mutated_json, lambda: [json.dumps(_JOBS).encode()], load_jobs),
    Format("training_lines", ".txt", mutated_lines, lambda: [criteo_lines(60)], _lines),
)
