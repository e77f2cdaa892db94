"""Formats are found by the content of a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from dessim.cluster.importers.detect import read_fabric
from tests.cluster.importers import fuzz


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        (f"# written from the output of ibnetdiscover; see 'Initiated from node'\n{fuzz.SLURM}", 24),
        (json.dumps(yaml.safe_load(fuzz.INFRAGRAPH)), 4),
        (json.dumps({"name": "mine", "infrastructure": yaml.safe_load(fuzz.INFRAGRAPH)}), 4),
        (json.dumps(yaml.safe_load(fuzz.INFRAGRAPH), indent=1), 4),
    ],
    ids=["SLURM that mentions ibnetdiscover", "JSON on one line", "JSON on one line, nested", "JSON on many lines"],
)
def test_fabrics(tmp_path: Path, text: str, hosts: int) -> None:
    path = tmp_path / "fabric"
    path.write_text(text)
    assert len(read_fabric(path).hosts) == hosts


def test_a_pipe_is_read_once() -> None:
    """A shell gives `--fabric <(command)` as the path of a pipe."""
    end, start = os.pipe()
    os.write(start, fuzz.SLURM.encode())
    os.close(start)
    try:
        assert len(read_fabric(Path(f"/dev/fd/{end}")).hosts) == 24
    finally:
        os.close(end)
