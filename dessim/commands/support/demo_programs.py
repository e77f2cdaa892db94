"""Starts the trainer's programs for the demo, and reads the JSON object that each prints at its end.

The trainer runs as separate processes only, so dessim needs no torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dessim.errors import CheckFailed, DessimError

_TIMEOUT_S = 1800.0  # of one program; far beyond what the demo needs


@dataclass(frozen=True, slots=True)
class TrainerPrograms:
    """Runs `des_ref` programs on `ranks` processes; their stderr goes to a log file each in folder `logs`."""

    logs: Path
    ranks: int

    def torchrun(self, program: str, *flags: str) -> str:
        """Run `des_ref.<program>` under torchrun. Returns its stdout; raises DessimError when it fails."""
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.ranks}"]
        return self._run(program, [*launcher, "-m", f"des_ref.{program}", *flags])

    def torchrun_json(self, program: str, *flags: str) -> dict[str, Any]:
        """`torchrun` of a program that prints a JSON object."""
        return self._parse(program, self.torchrun(program, *flags, "--json"))

    def python_json(self, program: str, *flags: str) -> dict[str, Any]:
        """Run `des_ref.<program>` without a launcher. Returns the JSON object that it prints."""
        return self._parse(program, self._run(program, ["-m", f"des_ref.{program}", *flags, "--json"]))

    def _run(self, program: str, arguments: list[str]) -> str:
        log = self._log(program)
        # One thread per rank: ranks share the cores, and the trace should not depend on the number of cores.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,
            )
            try:
                output, _ = process.communicate(timeout=_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise DessimError(f"{program} did not end within {_TIMEOUT_S:g} s; see {log}") from None
            finally:
                # Also on Ctrl-C: the ranks have their own session and would keep running.
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait()
        if process.returncode not in (0, CheckFailed.exit_code):
            raise DessimError(f"{program} failed (exit {process.returncode}): {_last_line(log)}; see {log}")
        return output

    def _parse(self, program: str, output: str) -> dict[str, Any]:
        try:
            result: dict[str, Any] = json.loads(output)
        except ValueError:
            raise DessimError(f"{program} did not print a JSON object; see {self._log(program)}") from None
        return result

    def _log(self, program: str) -> Path:
        return self.logs / f"{program}.log"


def _last_line(log: Path) -> str:
    """The trainer's own error message, or else the last line of the log."""
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    # torchrun's report of the failed rank follows the rank's own message.
    own_messages = [line for line in lines if line.startswith("des_ref.") and ": error: " in line]
    if own_messages:
        return own_messages[-1]
    if lines:
        return lines[-1]
    return "the disk is full" if shutil.disk_usage(log.parent).free < 4096 else "no message"
