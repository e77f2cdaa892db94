"""A process that dies, hangs or never joins: the others report it promptly, in one line."""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch
from torch.distributed import TCPStore

from des_ref import train
from des_ref.cli import RankError, run
from des_ref.comm import Comm, launch, open_comm, require_same
from des_ref.comm.group import Handle
from des_ref.forked import forking_context
from dessim.errors import UsageError
from dessim.processes import leave
from tests.des_ref.ranks import on_ranks, stderr_to
from tests.forked import free_port

SHORT_TIMEOUT_S = 3.0
LONG_TIMEOUT_S = 60.0


def _join(rank: int, folder: Path, timeout: float) -> None:
    """Both ranks join; rank 1 touches a file and sleeps until it is killed; rank 0 runs a collective alone."""

    stderr_to(folder / "said")

    def main() -> int:
        with open_comm("cpu", (folder / "rendezvous", rank, 2), timeout) as comm:
            comm.barrier()
            if rank == 1:
                (folder / "joined").touch()
                time.sleep(LONG_TIMEOUT_S)
            comm.all_reduce("partials", torch.zeros(3)).wait()
        return 0

    leave(run("des_ref.train", main))


@pytest.mark.parametrize(
    ("kill_signal", "timeout", "limit_s"),
    [(signal.SIGKILL, LONG_TIMEOUT_S, 10.0), (signal.SIGSTOP, SHORT_TIMEOUT_S, SHORT_TIMEOUT_S + 10)],
)
def test_losing_a_peer_ends_the_run_with_a_one_line_error(
    kill_signal: signal.Signals, timeout: float, limit_s: float, tmp_path: Path
) -> None:
    context = forking_context()
    survivor, gone = (context.Process(target=_join, args=(rank, tmp_path, timeout)) for rank in range(2))
    for process in (survivor, gone):
        process.start()
    try:
        deadline = time.monotonic() + LONG_TIMEOUT_S
        while not (tmp_path / "joined").exists():
            assert time.monotonic() < deadline and survivor.is_alive() and gone.is_alive()
            time.sleep(0.02)
        os.kill(gone.pid or 0, kill_signal)
        start = time.monotonic()
        survivor.join(limit_s)
        assert time.monotonic() - start < limit_s and survivor.exitcode == 1
    finally:
        for process in (survivor, gone):
            process.kill()
            process.join()
    errors = [line for line in (tmp_path / "said").read_text().splitlines() if "des_ref.train" in line]
    assert len(errors) == 1
    assert (
        f"rank 0: op partials failed, because another process has died or was silent for {timeout:g} s: " in errors[0]
    )


def test_a_start_that_a_peer_never_joins_times_out(tmp_path: Path) -> None:
    with (
        pytest.raises(RankError, match=r"rank 0: not all 2 processes joined within 1 s"),
        open_comm("cpu", (tmp_path / "rendezvous", 0, 2), timeout=1),
    ):
        pass


def test_an_error_of_this_process_is_not_blamed_on_a_peer() -> None:
    with open_comm("cpu") as comm, pytest.raises(RuntimeError, match="shape"), comm.peer_errors("partials"):
        torch.zeros(2) @ torch.zeros(3, 2).reshape(7)


class _Closed:
    """A message whose connection gloo has closed; this message does not name gloo."""

    def wait(self) -> None:
        raise RuntimeError("Application timeout caused pair closure")


def test_a_wait_that_fails_is_the_fault_of_a_peer_whatever_the_message() -> None:
    with open_comm("cpu") as comm, pytest.raises(RankError, match="rank 0: op rows_grad failed, because another proc"):
        Handle("rows_grad", _Closed(), comm).wait()


def test_a_group_whose_start_gets_no_answer_ends_within_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is lost while ranks agree on a group; torch would wait for its store for ever."""
    monkeypatch.setattr("des_ref.comm.within._TO_REPORT_S", 0.0)
    with open_comm("cpu") as comm:
        monkeypatch.setattr(torch.distributed, "new_group", lambda **_: Event().wait())
        with pytest.raises(RankError, match=r"start of group saving failed, .* was silent for 0\.1 s: no answer"):
            replace(comm, timeout=0.1).separate_group("saving")


def _serve(rank: int, folder: Path) -> None:
    """A worker of ps_async that is killed before its first message, and its server."""
    stderr_to(folder / "said")
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    if rank == 0:
        split = Comm.with_servers
        Comm.with_servers = lambda *arguments: (split(*arguments), os._exit(9))[0]  # type: ignore[method-assign]
    arguments = ["--data", "synthetic", "--model", "fm", "--strategy", "ps_async", "--device", "cpu", "--timeout", "2"]
    leave(run("des_ref.train", lambda: train.main(arguments)))


def test_a_server_whose_worker_is_killed_at_the_start_ends_within_the_timeout(tmp_path: Path) -> None:
    (tmp_path / "port").write_text(str(free_port()))
    worker, server = (forking_context().Process(target=_serve, args=(rank, tmp_path)) for rank in range(2))
    for process in (worker, server):
        process.start()
    server.join(LONG_TIMEOUT_S)
    for process in (worker, server):
        process.kill()
        process.join()
    assert (worker.exitcode, server.exitcode) == (9, 1)
    assert (tmp_path / "said").read_text().count("\n") == 1
    assert "no message from any worker for 2 s" in (tmp_path / "said").read_text()


def _knock(port: int, folder: Path) -> None:
    stderr_to(folder / "said")
    os.environ |= {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def main() -> int:
        with open_comm("cpu", timeout=1):
            return 0

    leave(run("des_ref.train", main))


def test_a_program_that_listens_at_the_port_and_says_nothing_does_not_outlast_the_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        knocking = forking_context().Process(target=_knock, args=(other.getsockname()[1], tmp_path))
        knocking.start()
        knocking.join(LONG_TIMEOUT_S)
        knocking.kill()
        knocking.join()
    assert knocking.exitcode == 1
    assert "des_ref.train: error: rank 1: not all 2 processes joined within 1 s: " in (tmp_path / "said").read_text()


def start_of(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Set what torchrun would; the value "" removes a variable."""
    for name, value in ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} | environment).items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x: must be a whole number from 0 to 1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2: must be a whole number from 0 to 1"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE=0: must be a whole number of 1 or more"),
        ({"RANK": "0", "WORLD_SIZE": "9" * 5000}, "WORLD_SIZE=99"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "q"}, "LOCAL_RANK=q: must be a whole number"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "99999"}, "MASTER_PORT=99999: must be a whole number from 1"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": ""}, "RANK is set and MASTER_PORT is not"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set and RANK is not: start with torchrun, or unset WORLD_SIZE"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "no.host.invalid"}, "no.host.invalid: cannot be resolved"),
    ],
)
def test_a_wrong_environment_is_named_in_one_line(
    environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    start_of(monkeypatch, **environment)

    def main() -> int:
        with open_comm("cpu", timeout=1):
            return 0

    assert run("des_ref.train", main) in (1, 2)
    said = capfd.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_name_that_is_published_late_is_awaited_and_what_is_no_name_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([socket.gaierror("unknown"), socket.gaierror("unknown"), None])

    def resolve(host: str, port: None) -> None:
        if (error := next(answers)) is not None:
            raise error

    with pytest.raises(RankError, match="cannot be resolved"):
        launch._await_name(1, "a" * 64, time.monotonic() + LONG_TIMEOUT_S)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    launch._await_name(1, "pod-0", time.monotonic() + LONG_TIMEOUT_S)
    assert next(answers, "asked three times") == "asked three times"


def test_a_missing_rank_is_not_taken_for_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's agent has the store, as here, and the ranks wait for each other in it."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    start_of(monkeypatch, RANK="0", WORLD_SIZE="2", MASTER_PORT=str(store.port), TORCHELASTIC_USE_AGENT_STORE="True")
    said = r"^rank 0: not all 2 processes joined within 1 s: a process did not arrive within 1 s$"
    with pytest.raises(RankError, match=said), open_comm("cpu", timeout=1):
        pass


def _differ(comm: Comm) -> str:
    require_same(comm, {"settings": {"batch": 64, "seed": 1}})
    try:
        require_same(comm, {"settings": {"batch": 64 << comm.rank, "seed": 1}})
    except UsageError as error:
        return str(error)
    return ""


def test_ranks_with_different_settings_are_refused(tmp_path: Path) -> None:
    said = "settings.batch is 64 on rank 0 and 128 on rank 1: start all ranks with the same options and files"
    assert on_ranks(2, tmp_path, _differ) == [said, said]
