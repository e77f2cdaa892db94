"""Fixtures for tests of studies. A test module names its study in `STUDY`, such as STUDY = "fabrics"."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dessim.files import read_toml


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    """The study's folder."""
    return Path(__file__).parents[2] / "studies" / request.module.STUDY


@pytest.fixture(scope="module")
def plot(folder: Path) -> Iterator[ModuleType]:
    """The study's plot.py, loaded by path because it belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_plot", folder / "plot.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module here
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def study(folder: Path) -> dict[str, Any]:
    """The study's study.toml."""
    return read_toml(folder / "study.toml")


@pytest.fixture(scope="module")
def expected(folder: Path) -> Any:
    """The study's expected.json."""
    return json.loads((folder / "expected.json").read_text("utf-8"))
