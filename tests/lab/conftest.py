"""Labs need root, iproute2, and a kernel with namespaces and shapers; tests are skipped where one is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dessim import lab
from dessim.cluster import load_cluster
from dessim.errors import LabError


def _missing() -> str:
    """The reason why no lab can be built on this machine; empty if one can."""
    name = f"probe{os.getpid()}"
    try:
        lab.up(load_cluster("lab/switch_4"), scale=1.0, name=name).down()
    except LabError as error:
        return str(error)
    return ""


@pytest.fixture(scope="session")
def can_build() -> None:
    if reason := _missing():
        pytest.skip(reason)


@pytest.fixture
def name(can_build: None) -> Iterator[str]:
    """A name for this process's lab; the lab, and one with a `b` appended, are removed after the test."""
    own = f"test{os.getpid()}"
    yield own
    for lab_name in (own, f"{own}b"):
        lab.down(lab_name)
    assert not [entry for entry in Path("/run/netns").iterdir() if entry.name.startswith(f"dl-{own}")]
