"""Run `ip` and `tc` of iproute2 in batches, with errors in one line; list and remove network namespaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from dessim.errors import LabError

NETNS = Path("/run/netns")
"""The folder in which `ip netns` keeps names (iproute2, include/namespace.h)."""
SYSCTLS = Path("/proc/sys/net")
_KILL_TIMEOUT_S = 5.0


def require() -> None:
    """Raise LabError if iproute2 is missing or this user is not root."""
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        raise LabError(f"{' and '.join(missing)} not found; install iproute2 (Debian: apt-get install iproute2)")
    if os.geteuid() != 0:
        raise LabError("a lab needs root to make network namespaces; run it with sudo, or as root in a virtual machine")


def call(*command: str, stdin: str | None = None) -> str:
    """Run a program to its end and return its output. Raises LabError with the first line of its errors."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        raise LabError(f"{' '.join(command[:5])}: {reason.strip()}")
    return done.stdout


def batch(program: str, lines: Iterable[str], space: str | None = None) -> None:
    """Run lines of `ip` or `tc` in one process, inside namespace `space` if given. Raises LabError."""
    inside = ["-n", space] if space else []
    call(program, *inside, "-batch", "-", stdin="".join(f"{line}\n" for line in lines))


def write_sysctls(space: str, values: dict[str, str]) -> None:
    """Set kernel parameters below /proc/sys/net, such as `ipv4/ip_forward`. Raises LabError if the kernel lacks one."""
    script = "".join(f"echo '{value}' > {SYSCTLS / key} || exit 1\n" for key, value in values.items())
    call("ip", "netns", "exec", space, "sh", "-c", script)


def spaces(prefix: str) -> list[str]:
    """Names of the namespaces that begin with `prefix`, sorted."""
    if not NETNS.is_dir():
        return []
    return sorted(entry.name for entry in NETNS.iterdir() if entry.name.startswith(prefix))


def delete(names: Sequence[str]) -> None:
    """Kill all processes in the namespaces and remove these with all their links. Raises LabError."""
    if not names:
        return
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while pids := inhabitants(names):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LabError(
                f"processes {', '.join(map(str, pids))} in {names[0]} or the lab's other namespaces do not end"
            )
        time.sleep(0.01)
    batch("ip", [f"netns del {name}" for name in names])


def inhabitants(names: Iterable[str]) -> list[int]:
    """The ids of all processes in any of the namespaces, sorted."""
    namespaces = set()
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            namespaces.add(_identity(NETNS / name))
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # the process has ended, or belongs to another user
                if _identity(entry / "ns" / "net") in namespaces:
                    pids.append(int(entry.name))
    return sorted(pids)


def _identity(path: Path) -> tuple[int, int]:
    """The device and inode of a namespace."""
    status = path.stat()
    return status.st_dev, status.st_ino
