"""Write the bytecode of all tests, with rewritten assertions, as pytest does when it imports them.

In a new clone each test worker would otherwise spend seconds on it: python -m tests.rewrite
"""

from __future__ import annotations

from contextlib import redirect_stdout, suppress
from importlib.abc import Loader
from importlib.util import module_from_spec, spec_from_file_location
from io import StringIO
from pathlib import Path

import pytest

HERE = Path(__file__).parent


class Rewriter:
    """A plugin that lets pytest's loader rewrite all tests, and collects none."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        loader = session.config.pluginmanager.rewrite_hook
        for path in sorted([*HERE.rglob("test_*.py"), *HERE.rglob("conftest.py")]):
            rewrite(path, loader)
        return True


def rewrite(path: Path, loader: Loader) -> None:
    """Rewrite the assertions of one file without running it."""
    spec = spec_from_file_location(path.stem, path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    module.__dict__["__builtins__"] = {}  # nothing can be imported, and all begin with an import
    with suppress(ImportError):
        loader.exec_module(module)


if __name__ == "__main__":
    with redirect_stdout(StringIO()):  # "no tests ran"
        pytest.main([str(HERE)], plugins=[Rewriter()])
