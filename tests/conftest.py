"""Settings of all tests."""

from __future__ import annotations

import os
from functools import cache

import pytest
import typer.testing
from hypothesis import settings

# A loaded machine is slow now and then; time limits are pytest-timeout's business. Continuous integration draws the
# same examples each time, so that a change is judged by itself; elsewhere each run draws new ones.
settings.register_profile("dessim", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dessim")

# CliRunner builds the whole command line anew for every command that it runs, which takes as long as many commands.
typer.testing._get_command = cache(typer.testing._get_command)


@pytest.fixture(autouse=True)
def _tables_at_full_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print tables at full width, whatever width the shell that runs the tests exports."""
    monkeypatch.delenv("COLUMNS", raising=False)
