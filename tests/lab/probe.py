"""Whether labs can be built on this machine."""

from __future__ import annotations

import os

from dessim import lab
from dessim.cluster import load_cluster
from dessim.errors import LabError


def why_no_lab() -> str:
    """The reason why no lab can be built on this machine; empty if one can."""
    try:
        lab.up(load_cluster("lab/switch_4"), scale=1.0, name=f"probe{os.getpid()}").down()
    except LabError as error:
        return str(error)
    return ""
