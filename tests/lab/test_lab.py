"""A lab on this machine: programs reach each other at the rates of the file, and nothing remains afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dessim import lab
from dessim.cli.app import app
from dessim.cluster import load_cluster
from dessim.errors import LabError, UsageError
from dessim.lab import build, iproute, launch, state
from dessim.lab.forking import Forks
from dessim.lab.iproute import NETNS

SEND = """
import os, socket, sys, time
rank = int(os.environ["RANK"])
size = int(sys.argv[1])
repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 1
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(address) as server:
        peer, _ = server.accept()
        for _ in range(repeats):
            began = time.perf_counter()
            peer.sendall(b"!")  # the sender waits for this, so no data arrives before the clock starts
            left = size
            while left:
                left -= len(peer.recv(min(left, 1 << 20)))
            print(time.perf_counter() - began)
else:
    while True:
        try:
            peer = socket.create_connection(address)
            break
        except OSError:
            time.sleep(0.02)
    for _ in range(repeats):
        peer.recv(1)
        peer.sendall(bytes(size))
"""
MIB = 1 << 20
PATIENCE_S = 120.0
"""Timeout for everything that is fast on an idle machine."""


def dessim(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def spaces(name: str) -> list[str]:
    """The namespaces of a lab."""
    return sorted(entry.name for entry in Path("/run/netns").iterdir() if entry.name.startswith(f"dl-{name}-"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


@pytest.mark.parametrize("queue", lab.QUEUES)
def test_a_link_has_the_rate_of_the_file(name: str, queue: str) -> None:
    repeats = 10
    with lab.up(load_cluster("lab/switch_4"), scale=1.0, queue=queue, name=name) as bed:
        before = bed.counters()
        done = bed.run([sys.executable, "-c", SEND, str(MIB), str(repeats)], 2, timeout=PATIENCE_S)
        assert done.code == 0
        carried = {c.name: c.bytes for c in lab.between(before, bed.counters()).values()}
        seconds = [float(line) for line in done.logs[0].read_text().split()]
    # No transfer is faster than the wire. A busy machine delays most of them, but not all.
    assert len(seconds) == repeats
    assert 0.95 * MIB / (100e6 / 8) < min(seconds) < 0.5
    for link in ("gpu1 -> switch0", "switch0 -> gpu0"):
        assert 1.0 < carried[link] / (repeats * MIB) < 1.10
    assert carried["gpu2 -> switch0"] == carried["switch0 -> gpu3"] == 0


def test_scale_slows_every_link(name: str) -> None:
    with lab.up(load_cluster("lab/switch_4"), scale=0.1, name=name) as bed:
        assert all(8 * port.rate == pytest.approx(10e6, rel=1e-4) for port in bed.layout.ports)
        done = bed.run([sys.executable, "-c", SEND, str(MIB // 8)], 2, timeout=PATIENCE_S)
        assert float(done.logs[0].read_text()) > 0.75 * MIB / 8 / (10e6 / 8)


def test_ranks_in_different_pods_reach_each_other(name: str) -> None:
    with lab.up(load_cluster("lab/fat_tree_8"), scale=1.0, name=name) as bed:
        from_other_pod = SEND.replace("else:", "elif rank == 7:")
        done = bed.run([sys.executable, "-c", from_other_pod, str(MIB // 4)], timeout=PATIENCE_S)
        assert done.code == 0
        upper = [c for c in bed.counters().values() if "core" in c.name]
        assert sum(c.bytes for c in upper) > 2 * MIB // 4  # into a core switch and out of it


def test_two_labs_are_isolated(name: str) -> None:
    cluster = load_cluster("lab/switch_4")
    with lab.up(cluster, scale=1.0, name=name) as one, lab.up(cluster, scale=1.0, name=f"{name}b") as two:
        with pytest.raises(UsageError, match="choose another --name"):
            lab.up(cluster, scale=1.0, name=name)
        assert len(spaces(name)) == len(spaces(f"{name}b")) == 5
        idle = two.counters()
        assert one.run([sys.executable, "-c", SEND, "1000"], 2, timeout=PATIENCE_S).code == 0
        assert all(c.bytes == 0 for c in lab.between(idle, two.counters()).values())
    assert not spaces(name) and not spaces(f"{name}b")


def test_the_machines_own_network_does_not_change(name: str) -> None:
    def addresses() -> str:
        return subprocess.run(["ip", "-br", "address"], capture_output=True, text=True, check=True).stdout

    before = addresses()
    with lab.up(load_cluster("lab/two_spines"), scale=1.0, name=name):
        assert addresses() == before
    assert addresses() == before


def test_the_commands_report_success_failure_and_timeout(name: str, tmp_path: Path) -> None:
    up = dessim("lab", "up", "lab/switch_4", "--scale", "1", "--name", name, "--json")
    assert up.exit_code == 0, up.stderr
    assert len(json.loads(up.stdout)["ranks"]) == 4
    ran = dessim("lab", "run", "--name", name, "--", sys.executable, "-c", "import os; print(os.environ['WORLD_SIZE'])")
    assert (ran.exit_code, ran.stdout.strip()) == (0, "4")
    # Rank 1 fails; without an end to the run the others would sleep for a minute.
    code = "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(60)"
    failed = dessim("lab", "run", "--name", name, "--logs", str(tmp_path), "--", sys.executable, "-c", code)
    assert failed.exit_code == 7
    assert failed.stderr.strip() == f"dessim: rank 1 failed with code 7; its output is in {tmp_path / 'rank1.log'}"
    late = dessim("lab", "run", "--name", name, "--timeout", "0.5", "--", "sleep", "60")
    assert late.exit_code == 124
    assert dessim("lab", "status", "--name", name).stdout.count("switch0") >= 8
    assert dessim("lab", "down", "--name", name).stdout == f"down: {name}\n"
    assert dessim("lab", "down", "--name", name).stdout == "nothing was up\n"
    gone = dessim("lab", "status", "--name", name)
    assert gone.exit_code == 2 and gone.stderr.startswith(f"dessim: no lab called {name} is up")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_runs_leave_no_process(name: str, sent: signal.Signals) -> None:
    with lab.up(load_cluster("lab/switch_4"), scale=1.0, name=name) as bed:
        program = [sys.executable, "-m", "dessim", "lab", "run", "--name", name, "--", "sleep", "600"]
        with subprocess.Popen(program, stderr=subprocess.DEVNULL) as running:
            try:
                wait_until(lambda: len(_inside(bed)) == 4)
                running.send_signal(sent)
                assert running.wait(timeout=PATIENCE_S) == 130
            finally:
                running.kill()  # no effect if it has ended
        assert not _inside(bed)


SLEEPERS = {"command": ["sleep", "600"], "program": lab.Program("tests.lab.facts", ["sleeps", "0"])}


@pytest.mark.parametrize("sleeper", SLEEPERS)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_rank_starts_leaves_no_process(
    name: str, sent: signal.Signals, sleeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives when the process of rank 2 exists, but before `launch` knows it."""
    start = launch._start

    def start_and_signal(layout: object, command: object, rank: int, *others: object) -> object:
        process = start(layout, command, rank, *others)
        if rank == 2:
            os.kill(os.getpid(), sent)
        return process

    # pytest runs with SIGINT ignored if it is a background job of a shell.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(launch, "_start", start_and_signal)
    try:
        with lab.up(load_cluster("lab/switch_4"), scale=1.0, name=name) as bed:
            with pytest.raises(KeyboardInterrupt):
                bed.run(SLEEPERS[sleeper])
            assert not _inside(bed)
    finally:
        signal.signal(signal.SIGINT, before)


def test_ranks_of_a_program_are_forked_from_one_process_and_otherwise_like_those_of_a_command(name: str) -> None:
    here = os.nice(0)
    with lab.up(load_cluster("lab/switch_4"), scale=1.0, name=name) as bed:
        done = bed.run(lab.Program("tests.lab.facts", ["a b"]), env={"MINE": "x"}, timeout=PATIENCE_S)
        facts = [json.loads(log.read_text()) for log in done.logs]
        assert done.code == 0
        assert [fact["network"] for fact in facts] == [(NETNS / rank.space).stat().st_ino for rank in bed.layout.ranks]
        assert [fact["rank"] for fact in facts] == ["0", "1", "2", "3"]
        assert len({fact["parent"] for fact in facts}) == 1
        for fact in facts:
            assert fact["leads"] and fact["nice"] <= max(here - 10, -20) and fact["stdin"] == ""
            assert (fact["arguments"], fact["mine"]) == (["a b"], "x")
        failed = bed.run(lab.Program("tests.lab.facts", ["fails", "7"]), timeout=PATIENCE_S)
        assert (failed.code, failed.rank, _inside(bed)) == (7, 1, [])
        late = bed.run(lab.Program("tests.lab.facts", ["sleeps", "0"]), 1, timeout=0.5)
        assert (late.code, late.rank, _inside(bed)) == (124, None, [])
        missing = bed.run(lab.Program("tests.lab.no_such_module"), 2, timeout=PATIENCE_S)
        assert missing.code == 1 and "No module named tests.lab.no_such_module" in missing.logs[0].read_text()


def test_ranks_end_with_the_process_that_they_are_forked_from(name: str) -> None:
    with lab.up(load_cluster("lab/switch_4"), scale=1.0, name=name) as bed:
        rank = bed.layout.ranks[0]
        log = state.root() / name / "log"
        with Forks(SLEEPERS["program"], {}) as forks:
            forks.wait_until_ready()
            one = forks.start(rank.space, {"RANK": "0"}, log)
            wait_until(lambda: log.exists() and log.read_text() != "")
            forks._server.kill()
            assert one.wait(PATIENCE_S) == -signal.SIGKILL
            wait_until(lambda: not _inside(bed))
            with pytest.raises(LabError, match="the process that its ranks are forked from has ended"):
                forks.wait_until_ready()


def _inside(bed: lab.Bed) -> list[int]:
    """The processes in the hosts of a lab."""
    return iproute.inhabitants(bed.layout.hosts)


def test_the_remains_of_a_killed_lab_are_removed(name: str) -> None:
    code = (
        "import sys; from dessim import lab; from dessim.cluster import load_cluster\n"
        f"bed = lab.up(load_cluster('lab/switch_4'), scale=1.0, name={name!r})\n"
        "bed.run(['sleep', '600'])"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as running:
        try:
            wait_until(lambda: name in _names() and len(_inside(lab.find(name))) == 4)
        finally:
            running.kill()
    assert len(spaces(name)) == 5
    shutil.rmtree(state.root() / name)  # its namespaces are found without its folder
    # `down --all` would also remove the labs of other tests on this machine.
    assert lab.down(name)
    assert not spaces(name)


def _names() -> list[str]:
    return [known for known in state.names() if (state.root() / known / "lab.json").exists()]


def test_down_all_finds_complete_and_incomplete_labs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = load_cluster("lab/switch_4")
    lab.up(cluster, scale=1.0, name=name)
    lab.up(cluster, scale=1.0, name=f"{name}b")
    shutil.rmtree(state.root() / f"{name}b")
    mine = [name, f"{name}b"]
    all_spaces = iproute.spaces

    def my_spaces(prefix: str) -> list[str]:
        return [space for space in all_spaces(prefix) if space.split("-")[1] in mine]

    monkeypatch.setattr(iproute, "spaces", my_spaces)
    monkeypatch.setattr(state, "names", lambda: [name])
    assert lab.down_all() == mine


def test_an_interrupted_up_leaves_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(layout: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "_shapers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.up(load_cluster("lab/switch_4"), scale=1.0, name=name)
    assert not spaces(name)
    assert name not in state.names()


def test_missing_privileges_are_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iproute.shutil, "which", lambda program: f"/sbin/{program}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="a lab needs root to make network namespaces") as error:
        lab.up(load_cluster("lab/switch_4"))
    assert error.value.exit_code == 1


def test_missing_iproute2_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iproute.shutil, "which", lambda program: None)
    with pytest.raises(LabError, match="ip and tc not found; install iproute2"):
        lab.down_all()
