"""The study of recorded GPUs: its README agrees with its findings, and its trace with the profiles."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from dessim.calibrate.profile import load_transport
from dessim.cluster import load_cluster
from dessim.trace.check import check_trace
from dessim.trace.importers.kineto import import_kineto
from dessim.trace.io import load_trace
from dessim.trace.matched import matched_collectives
from tests.pages import assert_same_page

STUDY = "recorded_gpus"


def test_it_stays_within_its_bound_and_changes_no_file(folder, plot, tmp_path):
    assert plot.main(["--out", str(tmp_path)]) == 0
    for name in ("README.md", "recorded_gpus.csv"):
        assert_same_page(tmp_path / name, folder / name)
    first = (tmp_path / "recorded_gpus.svg").read_bytes()
    assert plot.main(["--out", str(tmp_path)]) == 0
    assert (tmp_path / "recorded_gpus.svg").read_bytes() == first


def test_a_broken_bound_exits_3(folder, plot, tmp_path, monkeypatch, capsys):
    for file in folder.iterdir():
        if file.name != "study.toml":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "study.toml").write_text((folder / "study.toml").read_text().replace("8.3 %", "1 %"))
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(plot, "HERE", tmp_path)
    assert plot.main(["--out", str(tmp_path / "out")]) == 3
    assert "more than 1 %" in capsys.readouterr().err


def test_the_readme_agrees_with_the_findings(folder, expected):
    text = (folder / "README.md").read_text()
    median, worst = 100 * expected["median_error"], 100 * expected["worst_error"]
    assert f"The median error is {median:.1f} %, the worst {worst:.0f} %" in text
    assert sum(abs(row["error"]) < 0.083 for row in expected["collectives"]) == 5
    transfers = sum(row["measured_s"] for row in expected["collectives"])
    assert transfers == pytest.approx(225e-6) and "225 us of an 11.8 ms step" in text
    assert expected["replay"]["recorded_step_s"] == pytest.approx(11.8e-3, rel=5e-3)


def test_the_tuner_chooses_what_the_grids_of_the_kernels_show(expected):
    """LL for 448 B, on 96 threads; LL128 for the large ones, on 640 threads."""
    ran = {row["bytes"]: row["algorithm"] for row in expected["collectives"] if row["collective"] == "all_reduce"}
    assert ran == {448: "ring ll", 4 * 226_960: "ring ll128", 4 * 394_241: "ring ll128"}


def test_a_change_of_the_release_keeps_what_the_transport_states(folder):
    nccl = load_cluster(str(folder / "v100_cube_mesh.toml")).transport.nccl
    shipped = load_transport(Path("nccl-ib")).nccl
    assert nccl == replace(shipped, version="2.18") and nccl.factors


def test_transfers_equal_those_read_from_the_profiles_by_hand(folder):
    trace = load_trace(folder / "dlrm_8xV100.trace")
    assert check_trace(trace) == []
    transfers = [(str(c.collective), c.ops[0].bytes, c.transfer_us) for c in matched_collectives(trace)]
    assert transfers == [
        ("all_to_all", 24_576, 11.0),
        ("all_to_all", 192, 8.0),
        ("all_to_all", 1536, 8.0),
        ("all_to_all", 4 * 3392, 8.0),
        ("all_reduce", 4 * 394_241, 87.0),
        ("all_to_all", 24_576, 11.0),
        ("all_reduce", 448, 23.0),
        ("all_reduce", 4 * 226_960, 69.0),
    ]


def test_the_shipped_trace_equals_an_import_of_the_profiles(folder, tmp_path):
    """Needs the two archives of facebookresearch/param, et_replay/tests/inputs."""
    archives = Path(os.environ.get("DESSIM_DLRM_PROFILES", "missing"))
    if not (archives / "dlrm_kineto.tar.gz").is_file():
        pytest.skip(
            "set DESSIM_DLRM_PROFILES to a folder with dlrm_kineto.tar.gz and dlrm_pytorch_et.tar.gz from param"
        )
    for name in ("dlrm_kineto", "dlrm_pytorch_et"):
        with tarfile.open(archives / f"{name}.tar.gz") as packed:
            packed.extractall(tmp_path, filter="data")
    imported = import_kineto([tmp_path / "dlrm_kineto"], "dlrm_8xV100")
    shipped = load_trace(folder / "dlrm_8xV100.trace")
    assert (imported.header.groups, imported.ranks) == (shipped.header.groups, shipped.ranks)
    for rank, ops in enumerate(imported.ranks):
        (derived,) = (op.splits for op in ops if op.name == "all_to_all.4")
        nodes = json.loads((tmp_path / "dlrm_pytorch_et" / f"dlrm_eg_{rank}.json").read_text())["nodes"]
        (node,) = (n for n in nodes if n["name"] == "c10d::alltoall_base_" and n["inputs"][1][3] == 3392)
        assert derived == tuple(4 * n for n in node["inputs"][4])
