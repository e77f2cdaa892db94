"""The programs `ip` and `tc` of iproute2, run in batches, their complaints as one line; namespaces, who is in them."""

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
"""Where `ip netns` keeps names (iproute2, include/namespace.h)."""
SYSCTLS = Path("/proc/sys/net")
_GONE_WITHIN_S = 5.0


def require() -> None:
    """Raise LabError unless this machine and user can build a lab."""
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        raise LabError(f"{' and '.join(missing)} not found; install iproute2 (Debian: apt-get install iproute2)")
    if os.geteuid() != 0:
        raise LabError("a lab needs root to make network namespaces; run it with sudo, or as root in a virtual machine")


def call(*command: str, stdin: str | None = None) -> str:
    """Run a program to its end and return what it printed. Raises LabError with its first complaint."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        raise LabError(f"{' '.join(command[:5])}: {complaint.strip()}")
    return done.stdout


def batch(program: str, lines: Iterable[str], space: str | None = None) -> None:
    """Run lines of `ip` or `tc` in one process, inside namespace `space` if given. Raises LabError."""
    inside = ["-n", space] if space else []
    call(program, *inside, "-batch", "-", stdin="".join(f"{line}\n" for line in lines))


def write_sysctls(space: str, values: dict[str, str]) -> None:
    """Set kernel parameters below /proc/sys/net, such as `ipv4/ip_forward`; one that the kernel lacks is an error."""
    script = "".join(f"echo '{value}' > {SYSCTLS / key} || exit 1\n" for key, value in values.items())
    call("ip", "netns", "exec", space, "sh", "-c", script)


def spaces(prefix: str) -> list[str]:
    """Names of the namespaces that begin with `prefix`, sorted."""
    if not NETNS.is_dir():
        return []
    return sorted(entry.name for entry in NETNS.iterdir() if entry.name.startswith(prefix))


def delete(names: Sequence[str]) -> None:
    """End what runs in the namespaces and remove them, and with them every link that begins or ends there."""
    if not names:
        return
    deadline = time.monotonic() + _GONE_WITHIN_S
    while pids := inhabitants(names):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LabError(f"processes {', '.join(map(str, pids))} in {names[0]} and beside it do not end")
        time.sleep(0.01)
    batch("ip", [f"netns del {name}" for name in names])


def inhabitants(names: Iterable[str]) -> list[int]:
    """Processes in any of the namespaces."""
    wanted = set()
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            wanted.add(_identity(NETNS / name))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended, or is another's
                if _identity(entry / "ns" / "net") in wanted:
                    found.append(int(entry.name))
    return sorted(found)


def _identity(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_dev, about.st_ino
