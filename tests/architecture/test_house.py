"""Rules of the repository: make targets, no torch in the simulator, formulas in one place."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_collection_modifyitems

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "dessim").rglob("*.py"), *(ROOT / "des_ref").rglob("*.py")])


def test_makefile_has_at_most_eleven_documented_targets() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):", text, re.MULTILINE)
    documented = re.findall(r"^([a-z]+):.*##", text, re.MULTILINE)
    assert targets == documented
    assert {"demo", "test", "help"} <= set(targets) and len(targets) <= 11


def test_tests_that_measure_time_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test` runs them in a dedicated process and the others in parallel; test workers skip them."""
    text = (ROOT / "Makefile").read_text()
    quiet, others = re.findall(r"pytest (.*)", text)
    assert "-n 0" in quiet and "-m quiet" in quiet and "-m 'not quiet'" in others and "-n $(WORKERS)" in others
    marks: list[pytest.MarkDecorator] = []
    item = SimpleNamespace(get_closest_marker=lambda name: name == "quiet", add_marker=marks.append)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytest_collection_modifyitems([item])
    assert not marks
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    pytest_collection_modifyitems([item])
    assert [mark.name for mark in marks] == ["skip"]


def test_the_simulator_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from dessim import Job, load_cluster, load_model, project\n"
        "rows = project(Job.of_model(load_model('deepfm')), load_cluster('one-switch_16'), ['des_all_reduce'], [4])\n"
        "assert rows[0].samples_per_s > 0 and 'des_ref' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_des_sizes_are_stated_once() -> None:
    """The trainer takes its sizes from the plan: no file of des_ref states or builds a planned formula."""
    planned = (ROOT / "dessim" / "workload" / "strategies" / "des.py").read_text()
    assert "B * wire * s" in planned
    for source in (ROOT / "des_ref").rglob("*.py"):
        code = re.sub(r'""".*?"""', "", source.read_text(), flags=re.DOTALL)
        assert not re.search(r"[\"']\(?B/N\)?\*|[\"']B\*|dessim\.workload\.symbols", code), source


def test_no_code_unpickles_or_evaluates_untrusted_data() -> None:
    for source in SOURCES:
        code = source.read_text()
        assert not re.search(r"\b(import pickle|pickle\.|yaml\.load\(|[^.\w]eval\(|[^.\w]exec\()", code), source
        for call in re.findall(r"torch\.load\([^)]*\)", code):
            assert "weights_only=True" in call, source


def test_only_comm_calls_torch_distributed() -> None:
    for source in (ROOT / "des_ref").rglob("*.py"):
        if source.parent.name != "comm":
            # torch.distributed.checkpoint is exempt: it writes files from one process.
            pattern = (
                r"^\s*(import torch\.distributed(?!\.checkpoint)|from torch\.distributed|from torch import distributed)"
            )
            assert not re.search(pattern, source.read_text(), re.MULTILINE), source


def test_every_module_has_a_docstring() -> None:
    for source in SOURCES:
        assert source.read_text().startswith('"""'), source


def test_the_wheel_contains_topologies_models_and_templates() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"]["topologies"] == "dessim/topologies"
    assert (ROOT / "dessim" / "workload" / "models" / "deepfm.toml").is_file()
    assert (ROOT / "dessim" / "results" / "templates" / "page.html.j2").is_file()
