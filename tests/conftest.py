"""Settings of all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator
from functools import cache

import pytest
import typer.testing
from hypothesis import settings

# Test workers share the machine's cores, so threads of one worker's numpy or torch would mostly wait for each other,
# which takes up to five times as long. Both libraries read this variable when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A loaded machine is slow now and then; time limits are pytest-timeout's business. Continuous integration draws the
# same examples each time, so that a change is judged by itself; elsewhere each run draws new ones.
settings.register_profile("dessim", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dessim")

# CliRunner builds the whole command line anew for every command that it runs, which takes as long as many commands.
typer.testing._get_command = cache(typer.testing._get_command)


def pytest_sessionstart() -> None:
    """Let Ctrl-C interrupt processes, as tests expect: a background job of a script starts with it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests that need a quiet machine to a separate run: `pytest -m quiet`, as `make test` does."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        for item in items:
            if item.get_closest_marker("quiet"):
                item.add_marker(pytest.mark.skip(reason="needs a quiet machine: run pytest -m quiet without -n"))


# Nothing is garbage while modules are imported and tests are collected; see pytest_collection.
gc.disable()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt all modules and tests from garbage collection, which would visit them again and again for seconds."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        # Hypothesis and simulations make many small objects that live on; the default of 700 takes a twentieth of the
        # time of all tests.
        gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def _forking_server() -> None:
    """Start all processes that tests fork from one that has imported what any of them need: Python has one such
    process, and the first to ask for it determines what it imports. Runs of tests without torch do not ask."""
    if "torch" in sys.modules:
        from tests.forked import forked_from_everything

        forked_from_everything()


@pytest.fixture(autouse=True)
def _tables_at_full_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print tables at full width, whatever width the shell that runs the tests exports."""
    monkeypatch.delenv("COLUMNS", raising=False)
