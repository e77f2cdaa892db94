"""`make mutants`: applies every deliberate fault in turn, runs its check, and reports which faults were noticed.

    python -m tests.mutants.run                 all; first every check without a fault, which must pass
    python -m tests.mutants.run bias dropout    those whose names contain one of the words
    python -m tests.mutants.run --sources PATH  the same faults in another copy of the repository

A check notices a fault if it fails: exit code 3 of the certificate, 1 of pytest. Any other end, such as a syntax error
or a hang, is an error of the mutant. The exit code is 3 unless all are caught.

Each check runs in a fork of this process, which has imported torch and nothing of the trainer.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest  # noqa: F401  imported for the forks
import torch._dynamo  # noqa: F401  imported for the forks

from tests.mutants.mutants import ROOT, Mutant, Sandbox, WrongMutant, load

LIMIT_S = 300
_NOTICED = {"des_ref.certify": 3, "pytest": 1}
_PASSED = 0
_TIMED_OUT = -1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", help="only mutants whose names contain one of these words")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the checks without a fault first")
    parser.add_argument("--sources", type=Path, default=ROOT, help="the repository to mutate (default: this one)")
    arguments = parser.parse_args(argv)
    mutants = [m for m in load() if not arguments.words or any(word in m.name for word in arguments.words)]
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        sandbox = Sandbox(Path(scratch), arguments.sources)
        checks = dict.fromkeys(m.check for m in mutants)
        broken = 0 if arguments.no_baseline else _baseline(sandbox, list(checks))
        caught = sum(_is_caught(sandbox, mutant) for mutant in mutants)
    seconds = time.monotonic() - started_at
    print(f"caught {caught} of {len(mutants)} faults; {len(checks)} checks, {broken} of which fail without a fault")
    print(f"{seconds:.0f} s")
    return 0 if caught == len(mutants) and not broken else 3


def _baseline(sandbox: Sandbox, checks: Sequence[tuple[str, ...]]) -> int:
    """The number of checks that do not pass without a fault."""
    broken = 0
    for check in checks:
        code, output = _run(sandbox, check)
        if code != _PASSED:
            broken += 1
            print(f"FAILS WITHOUT A FAULT ({code})  {' '.join(check)}\n{_tail(output)}", flush=True)
    print(f"{len(checks) - broken} of {len(checks)} checks pass without a fault", flush=True)
    return broken


def _is_caught(sandbox: Sandbox, mutant: Mutant) -> bool:
    try:
        with sandbox.mutated(mutant):
            code, output = _run(sandbox, mutant.check)
            unhidden = [check for check in mutant.hidden_checks() if _run(sandbox, check)[0] != _PASSED]
    except WrongMutant as error:
        print(f"{'ERROR':10s}{error}", flush=True)
        return False
    noticed = code == _NOTICED[mutant.check[0]]
    verdict = "caught" if noticed else "MISSED" if code == _PASSED else f"ERROR ({code})"
    print(f"{verdict:10s}{mutant.name:72s} {' '.join(mutant.check)}", flush=True)
    if not noticed and code != _PASSED:
        print(_tail(output), flush=True)
    for check in unhidden:
        print(f"          NOT HIDDEN from {' '.join(check)}", flush=True)
    return noticed and not unhidden


def _tail(output: str) -> str:
    return "".join(f"    | {line}\n" for line in output.splitlines()[-12:])


def _run(sandbox: Sandbox, check: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and output of a check; -1 if it took longer than LIMIT_S."""
    log = sandbox.folder / "output.txt"
    child = os.fork()
    if not child:
        _become(sandbox, check, log)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status), log.read_text("utf-8", "replace")
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return _TIMED_OUT, log.read_text("utf-8", "replace")


def _become(sandbox: Sandbox, check: tuple[str, ...], log: Path) -> None:
    """Run the check in this process, a child, from the sandbox's sources; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(out, descriptor)
        os.chdir(sandbox.folder)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "des_ref", "dessim")]:
            del sys.modules[name]
        sys.path[:] = [str(sandbox.folder), *(p for p in sys.path if p not in ("", str(ROOT)))]
        os.environ["PYTHONPATH"] = str(sandbox.folder)
        os.environ["OMP_NUM_THREADS"] = "1"
        _fork_ranks()
        sys.argv = [check[0], *check[1:]]
        try:
            runpy.run_module(check[0], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _fork_ranks() -> None:
    """Let ranks be forks of this process, too, instead of forks of a server that would import everything anew."""
    import multiprocessing

    import des_ref.forked

    des_ref.forked.forking_context = lambda *modules: multiprocessing.get_context("fork")  # type: ignore[assignment]


if __name__ == "__main__":
    sys.exit(main())
