"""`dessim validate --published`: the published readings are read, predicted, and within their bounds."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from dessim.calibrate.nccl.published import read_published
from dessim.errors import FileError
from dessim.validate.published import broken, default_folder, errors_by, predict_readings, summaries_by_band

FOLDER = default_folder()


def test_every_reading_has_a_source_and_a_cluster() -> None:
    with (FOLDER / "nccl_tests.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1000
    assert all(row["source"] and (FOLDER / "clusters" / f"{row['cluster']}.toml").is_file() for row in rows)


def test_the_shipped_transports_are_within_the_bounds() -> None:
    readings = predict_readings(FOLDER)
    assert broken(readings, FOLDER) == []
    assert list(summaries_by_band(readings)) == ["up to 64 KiB", "to 8 MiB", "above 8 MiB"]
    errors = errors_by(readings, lambda one: one.op)
    assert sum(len(found) for found in errors.values()) == len(readings)


def test_a_broken_bound_is_a_sentence(tmp_path: Path) -> None:
    bounds = (FOLDER / "bounds.toml").read_text().replace("median_error = 0.08", "median_error = 0.001")
    (tmp_path / "bounds.toml").write_text(bounds)
    (sentence,) = broken(predict_readings(FOLDER), tmp_path)
    assert sentence.startswith("above 8 MiB: median error") and sentence.endswith("allowed 0%")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a100_server,8,1,2.8,8,,hypercube,8,34,,x", "line 2: 'hypercube' is no op of nccl-tests"),
        ("a100_server,eight,1,2.8,8,,all_reduce,8,34,,x", "line 2: invalid literal"),
        ("a100_server,8,1,2.8,8,,all_reduce,0,34,,x", "line 2: gpus, nodes, bytes and time_us must be positive"),
        ("a100_server,8", "line 2: needs the columns cluster"),
    ],
)
def test_a_mistake_is_named_by_line(tmp_path: Path, line: str, problem: str) -> None:
    shutil.copytree(FOLDER / "clusters", tmp_path / "clusters")
    head = "cluster,gpus,nodes,nccl,gpus_per_process,settings,op,bytes,time_us,suspect,source"
    (tmp_path / "nccl_tests.csv").write_text(f"{head}\n{line}\n")
    with pytest.raises(FileError, match=problem):
        read_published(tmp_path)
