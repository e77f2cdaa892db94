"""Labs need root, iproute2, and a kernel with namespaces and shapers; tests are skipped where one is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dessim import lab
from tests.lab.probe import why_no_lab


@pytest.fixture(scope="session")
def can_build() -> None:
    if reason := why_no_lab():
        pytest.skip(reason)


@pytest.fixture
def name(can_build: None) -> Iterator[str]:
    """A name for this process's lab; the lab, and one with a `b` appended, are removed after the test."""
    own = f"test{os.getpid()}"
    yield own
    for lab_name in (own, f"{own}b"):
        lab.down(lab_name)
    assert not [entry for entry in Path("/run/netns").iterdir() if entry.name.startswith(f"dl-{own}")]
