"""Point-to-point messages between the workers and the server processes of ps_async."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor

from des_ref.cli import RankError


@dataclass(slots=True)
class Wire:
    """Messages between single processes, in host memory; those of one tag between two processes arrive in order.

    rank       of this process
    servers    global ranks of the server processes
    timeout_s  seconds after which a message fails
    moved      bytes sent and received, by name of the op
    """

    rank: int
    servers: tuple[int, ...]
    timeout_s: float
    _group: Any
    moved: Counter[str] = field(default_factory=Counter)

    def send(self, name: str, tensor: Tensor, to: int, tag: int) -> Message | None:
        """Start sending. An empty tensor is not sent at all, and its receiver must not wait for it."""
        return self._start(dist.isend, name, tensor, to, tag)

    def receive(self, name: str, tensor: Tensor, source: int, tag: int) -> Message | None:
        """Start receiving into `tensor`."""
        return self._start(dist.irecv, name, tensor, source, tag)

    def receive_any(self, tensor: Tensor, tag: int) -> int:
        """Wait for the next message with this tag from any process; returns the sender's rank.

        Raises RankError if none arrives in time.
        """
        try:
            return int(dist.recv(tensor, None, self._group, tag))
        except RuntimeError as error:
            problem = f"no message from any worker for {self.timeout_s:g} s: {first_line(error)}"
            raise RankError(self.rank, problem) from None

    def _start(self, call: Callable[..., Any], name: str, tensor: Tensor, peer: int, tag: int) -> Message | None:
        if not tensor.numel():
            return None
        self.moved[name] += tensor.numel() * tensor.element_size()
        try:
            return Message(self.rank, name, peer, tensor, call(tensor, peer, group=self._group, tag=tag))
        except RuntimeError as error:  # where the other process has ended already
            raise _lost(self.rank, name, peer, error) from None


@dataclass(slots=True)
class Message:
    """A message of process `rank` in flight to or from process `peer`; it keeps its tensor alive."""

    rank: int
    name: str
    peer: int
    tensor: Tensor
    _work: Any

    def wait(self) -> None:
        """Raises RankError when the other process has died or the message takes too long."""
        try:
            self._work.wait()
        except RuntimeError as error:
            raise _lost(self.rank, self.name, self.peer, error) from None


def _lost(rank: int, name: str, peer: int, error: RuntimeError) -> RankError:
    return RankError(rank, f"message {name} with process {peer} failed: {first_line(error)}")


def first_line(error: Exception) -> str:
    """The first line of an error, without the source location that gloo puts in front."""
    return str(error).strip().split("\n")[0].rpartition("] ")[2]
