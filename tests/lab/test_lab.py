"""A lab on this machine: programs reach each other at the rates of the file, and nothing is left afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dessim import lab
from dessim.cli.app import app
from dessim.cluster import load_cluster
from dessim.errors import LabError, UsageError

SEND = """
import os, socket, sys, time
rank, size = int(os.environ["RANK"]), int(sys.argv[1])
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(address) as server:
        peer, _ = server.accept()
        began, got = time.perf_counter(), 0
        while got < size:
            got += len(peer.recv(1 << 20))
        print(time.perf_counter() - began)
else:
    for _ in range(200):
        try:
            peer = socket.create_connection(address)
            break
        except OSError:
            time.sleep(0.02)
    peer.sendall(bytes(size))
"""
MIB = 1 << 20


def dessim(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def spaces(name: str) -> list[str]:
    return sorted(entry.name for entry in Path("/run/netns").iterdir() if entry.name.startswith(f"dl-{name}-"))


@pytest.mark.parametrize("queue", lab.QUEUES)
def test_a_link_carries_what_the_file_says(name: str, queue: str) -> None:
    with lab.up(load_cluster("lab/switch_4"), scale=1.0, queue=queue, name=name) as bed:
        before = bed.counters()
        done = bed.run([sys.executable, "-c", SEND, str(MIB)], 2, timeout=30)
        assert done.code == 0
        carried = {c.name: c.bytes for c in lab.between(before, bed.counters()).values()}
        seconds = float(done.logs[0].read_text())
    # No faster than the wire; a busy machine may be slower, but not by much.
    assert 0.95 * MIB / (100e6 / 8) < seconds < 0.5
    for link in ("gpu1 -> switch0", "switch0 -> gpu0"):
        assert 1.0 < carried[link] / MIB < 1.10
    assert carried["gpu2 -> switch0"] == carried["switch0 -> gpu3"] == 0


def test_scale_slows_every_link(name: str) -> None:
    with lab.up(load_cluster("lab/switch_4"), scale=0.1, name=name) as bed:
        assert all(8 * port.rate == pytest.approx(10e6, rel=1e-4) for port in bed.layout.ports)
        done = bed.run([sys.executable, "-c", SEND, str(MIB // 8)], 2, timeout=30)
        assert float(done.logs[0].read_text()) > 0.75 * MIB / 8 / (10e6 / 8)


def test_ranks_across_leaves_reach_each_other(name: str) -> None:
    with lab.up(load_cluster("lab/fat_tree_8"), scale=1.0, name=name) as bed:
        far = SEND.replace("else:", "elif rank == 7:")  # in the other pod
        done = bed.run([sys.executable, "-c", far, str(MIB // 4)], timeout=30)
        assert done.code == 0
        upper = [c for c in bed.counters().values() if "core" in c.name]
        assert sum(c.bytes for c in upper) > 2 * MIB // 4  # into a core switch and out of it


def test_two_labs_do_not_meet(name: str) -> None:
    cluster = load_cluster("lab/switch_4")
    with lab.up(cluster, scale=1.0, name=name) as one, lab.up(cluster, scale=1.0, name=f"{name}b") as two:
        with pytest.raises(UsageError, match="choose another --name"):
            lab.up(cluster, scale=1.0, name=name)
        assert len(spaces(name)) == len(spaces(f"{name}b")) == 5
        idle = two.counters()
        assert one.run([sys.executable, "-c", SEND, "1000"], 2, timeout=30).code == 0
        assert all(c.bytes == 0 for c in lab.between(idle, two.counters()).values())
    assert not spaces(name) and not spaces(f"{name}b")


def test_the_machines_own_network_stays_as_it_was(name: str) -> None:
    def own() -> str:
        return subprocess.run(["ip", "-br", "address"], capture_output=True, text=True, check=True).stdout

    before = own()
    with lab.up(load_cluster("lab/two_spines"), scale=1.0, name=name):
        assert own() == before
    assert own() == before


def test_commands(name: str, tmp_path: Path) -> None:
    up = dessim("lab", "up", "lab/switch_4", "--scale", "1", "--name", name, "--json")
    assert up.exit_code == 0, up.stderr
    assert len(json.loads(up.stdout)["ranks"]) == 4
    ran = dessim("lab", "run", "--name", name, "--", sys.executable, "-c", "import os; print(os.environ['WORLD_SIZE'])")
    assert (ran.exit_code, ran.stdout.strip()) == (0, "4")
    # The second rank fails; the others would wait for a minute.
    code = "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(60)"
    failed = dessim("lab", "run", "--name", name, "--logs", str(tmp_path), "--", sys.executable, "-c", code)
    assert failed.exit_code == 7
    assert failed.stderr.strip() == f"dessim: rank 1 failed with code 7; what it printed is in {tmp_path / 'rank1.log'}"
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
        with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as running:
            for _ in range(200):
                if len(inhabitants := _inside(bed)) == 4:
                    break
                time.sleep(0.05)
            assert len(inhabitants) == 4
            running.send_signal(sent)
            assert running.wait(timeout=10) == 130
        assert not _inside(bed)


def _inside(bed: lab.Bed) -> list[int]:
    from dessim.lab.iproute import inhabitants

    return inhabitants(bed.layout.hosts)


def test_what_a_killed_lab_left_is_removed(name: str) -> None:
    code = (
        "import sys; from dessim import lab; from dessim.cluster import load_cluster\n"
        f"bed = lab.up(load_cluster('lab/switch_4'), scale=1.0, name={name!r})\n"
        "bed.run(['sleep', '600'])"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as running:
        for _ in range(200):
            if name in _names() and len(_inside(lab.find(name))) == 4:
                break
            time.sleep(0.05)
        running.kill()
    assert len(spaces(name)) == 5
    shutil.rmtree(lab.bed.state.root() / name)  # even if what it knew is lost
    # `down --all` would end the labs of whoever else tests on this machine.
    assert lab.down(name)
    assert not spaces(name)


def _names() -> list[str]:
    from dessim.lab import state

    return [each for each in state.names() if (state.root() / each / "lab.json").exists()]


def test_all_labs_are_found_whole_or_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dessim.lab import bed, iproute

    cluster = load_cluster("lab/switch_4")
    lab.up(cluster, scale=1.0, name=name)
    lab.up(cluster, scale=1.0, name=f"{name}b")
    shutil.rmtree(lab.bed.state.root() / f"{name}b")
    mine = [name, f"{name}b"]
    found = iproute.spaces
    monkeypatch.setattr(bed.iproute, "spaces", lambda prefix: [s for s in found(prefix) if s.split("-")[1] in mine])
    monkeypatch.setattr(bed.state, "names", lambda: [name])
    assert lab.down_all() == mine


def test_what_cannot_be_finished_is_undone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(layout: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lab.bed.build, "_shapers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.up(load_cluster("lab/switch_4"), scale=1.0, name=name)
    assert not spaces(name)
    assert name not in lab.bed.state.names()


def test_without_privileges_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.bed.iproute.shutil, "which", lambda program: f"/sbin/{program}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="a lab needs root to make network namespaces") as error:
        lab.up(load_cluster("lab/switch_4"))
    assert error.value.exit_code == 1


def test_without_iproute2_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.bed.iproute.shutil, "which", lambda program: None)
    with pytest.raises(LabError, match="ip and tc not found; install iproute2"):
        lab.down_all()
