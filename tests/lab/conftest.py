"""Labs need root, iproute2 and a kernel with namespaces and shapers: where one of them is missing tests are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dessim import lab
from dessim.cluster import load_cluster
from dessim.errors import LabError


def _missing() -> str:
    """Why no lab can be built here; empty if one can. As root with the tools in place nothing is skipped."""
    name = f"probe{os.getpid()}"
    try:
        lab.up(load_cluster("lab/switch_4"), scale=1.0, name=name).down()
    except LabError as error:
        return str(error)
    return ""


@pytest.fixture(scope="session")
def can_build() -> None:
    if why := _missing():
        pytest.skip(why)


@pytest.fixture
def name(can_build: None) -> Iterator[str]:
    """Of a lab that is this process' own, and gone when the test is over."""
    own = f"test{os.getpid()}"
    yield own
    for each in (own, f"{own}b"):
        lab.down(each)
    assert not [entry for entry in Path("/run/netns").iterdir() if entry.name.startswith(f"dl-{own}")]
