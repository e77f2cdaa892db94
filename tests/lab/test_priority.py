"""A command with priority is scheduled ahead of others and otherwise runs unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dessim.lab.priority import first

SHOW = "import os, sys; print(os.nice(0)); print(open('/proc/self/autogroup').read() if len(sys.argv) > 1 else '')"


def test_arguments_output_and_exit_code_are_unchanged() -> None:
    done = subprocess.run(
        first([sys.executable, "-c", "import sys; print(sys.argv[1]); sys.exit(7)", "a b"]), capture_output=True
    )
    assert (done.returncode, done.stdout) == (7, b"a b\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a priority")
def test_the_process_and_its_session_have_priority() -> None:
    grouped = Path("/proc/self/autogroup").exists()
    command = first([sys.executable, "-c", SHOW, *(["grouped"] if grouped else [])])
    nice, group = subprocess.run(command, capture_output=True, text=True, start_new_session=True).stdout.split("\n")[:2]
    assert int(nice) <= -10
    assert not grouped or group.endswith("nice -10")
