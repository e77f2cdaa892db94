"""The bytecode of tests is written without running them, and pytest uses it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.rewrite import rewrite


def test_a_file_is_rewritten_once_and_not_run(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file, loader = tmp_path / "test_sums.py", pytestconfig.pluginmanager.rewrite_hook
    file.write_text('"""Sums."""\nimport sys\n\nsys.ran = True\none = 1\nassert one + 1 == 3\n')
    rewrite(file, loader)
    (written,) = (tmp_path / "__pycache__").iterdir()
    assert "pytest" in written.name and not hasattr(sys, "ran")
    before = written.stat()

    monkeypatch.setattr(sys, "ran", False, raising=False)
    spec = importlib.util.spec_from_file_location("test_sums", file, loader=loader)
    assert spec is not None
    with pytest.raises(AssertionError, match=r"assert \(1 \+ 1\) == 3"):
        loader.exec_module(importlib.util.module_from_spec(spec))
    after = written.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
