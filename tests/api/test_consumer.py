"""A project of someone else: it installs the wheel, passes mypy --strict, and has a regression test of its step.

The wheel is built and installed without a network. The other packages are those of this environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".mypy_cache" / "consumer"

PLANNING = '''\
"""How fast our job would be."""

import dessim


def steps(cluster: str, gpus: int) -> dict[str, float]:
    found = dessim.project("deepfm", cluster, ["des_reduce_scatter", "table_wise"], gpus)
    return {step.strategy: step.step_time_s for step in found}


def slowest_op(step: dessim.StepRow) -> str:
    worst = max(step.ops, key=lambda op: op.exposed_s)
    return f"{worst.name}: {worst.exposed_s:.6f} s, bound by {worst.bound_by}"


def wrong(step: dessim.StepRow) -> str:
    dessim.projekt  # type: ignore[attr-defined]
    return step.step_time_s  # type: ignore[return-value]
'''

TEST = """\
from pathlib import Path

import dessim
from planning import slowest_op, steps

HERE = Path(__file__).parent


def test_the_step_is_as_recorded() -> None:
    dessim.assert_unchanged(HERE / "step.json")


def test_the_step_of_a_changed_cluster_is_not() -> None:
    dessim.assert_unchanged(HERE / "changed" / "step.json")


def test_shipped_clusters_are_in_the_wheel() -> None:
    assert "site" in str(dessim.__file__) and dessim.load_cluster("h100-8x_rail_128").n_gpus == 1024
    assert steps("h100-8x_rail_128", 8)["table_wise"] > 0
    assert "bound by" in slowest_op(dessim.project("deepfm", str(HERE / "mine.toml"), "table_wise", 16)[0])
"""


@pytest.mark.slow
def test_a_consumer_installs_type_checks_and_learns_what_changed(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the wheel is built without a network")
    pytest.importorskip("mypy", reason="the project is type-checked")
    site, project = tmp_path / "site", tmp_path / "project"
    project.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}

    def run(*words: str | Path) -> tuple[int, str]:
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--no-compile")
    assert run(*pip, "install", *offline, "--target", site, ROOT)[0] == 0  # which builds the wheel and installs it

    (project / "planning.py").write_text(PLANNING)
    (project / "test_step.py").write_text(TEST)
    # Types of numpy, pandas and others stay cached from run to run: without, they take most of the test's time.
    code, said = run("-m", "mypy", "--strict", "--cache-dir", CACHE, "planning.py", "test_step.py")
    assert code == 0, said
    (project / "mine.toml").write_text((site / "dessim" / "topologies" / "one-switch_16.toml").read_text())
    asked = ("--model", "deepfm", "--strategy", "table_wise", "--cluster", "mine.toml", "--gpus", "16")
    assert run("-m", "dessim", "project", *asked, "--golden", "step.json")[0] == 0
    changed = project / "changed"
    changed.mkdir()
    for name in ("mine.toml", "step.json"):
        shutil.copy(project / name, changed)
    with (changed / "mine.toml").open("a") as file:
        file.write('\n[[override]]\nnodes = [0, 0]\nnic = "connectx-6"\n')
    code, said = run("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert code == 1 and "1 failed, 2 passed" in said, said
    assert "FAILED test_step.py::test_the_step_of_a_changed_cluster_is_not" in said
    assert "pooled (all_to_all):" in said
    assert "likely cause: cluster: NIC, sending: 1 at 24 GB/s, 15 at 50 GB/s, was 16 at 50 GB/s" in said
