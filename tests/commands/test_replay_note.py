"""A trace of CPUs on a cluster of GPUs says in one line that its compute keeps the recorded times."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from dessim.cli.app import app
from dessim.trace.io import write_trace
from tests.trace.build import all_ops, header


def test_replay_names_compute_that_was_recorded_on_a_cpu(tmp_path: Path) -> None:
    write_trace(tmp_path / "cpu.trace", header(), all_ops())
    write_trace(tmp_path / "gpu.trace", header(device="NVIDIA H100"), all_ops())

    def said(trace: str, cluster: str) -> list[str]:
        result = CliRunner().invoke(app, ["replay", str(tmp_path / trace), "--cluster", cluster])
        assert result.exit_code == 0, result.output
        return [line for line in result.stdout.splitlines() if line.startswith("note: ")]

    assert (
        "recorded on a CPU"
        in json.loads(
            CliRunner()
            .invoke(app, ["replay", str(tmp_path / "cpu.trace"), "--cluster", "h100-8x_rail_128", "--json"])
            .stdout
        )["note"]
    )
    (line,) = said("cpu.trace", "h100-8x_rail_128")
    assert "recorded on a CPU" in line and "h100-sxm" in line
    assert not said("cpu.trace", "lab/switch_2") and not said("gpu.trace", "h100-8x_rail_128")
