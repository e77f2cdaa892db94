"""Messages between single processes: what a worker and a server of ps_async send each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor

from dessim.errors import DessimError


@dataclass(slots=True)
class Wire:
    """Messages between single processes, on the CPU. Those of one tag from one process to another arrive in order.

    `moved`: bytes sent and received, by name of the op; `servers`: ranks of the processes that serve.
    """

    servers: tuple[int, ...]
    patience: float  # seconds
    _group: Any
    moved: Counter[str] = field(default_factory=Counter)

    def send(self, name: str, tensor: Tensor, to: int, tag: int) -> Message | None:
        """Start sending; nothing is sent, and nobody may wait for it, where the tensor is empty."""
        return self._start(dist.isend, name, tensor, to, tag)

    def receive(self, name: str, tensor: Tensor, source: int, tag: int) -> Message | None:
        """Start receiving into `tensor`."""
        return self._start(dist.irecv, name, tensor, source, tag)

    def receive_any(self, tensor: Tensor, tag: int) -> int:
        """Wait for the next message of this tag; the rank it comes from."""
        try:
            return int(dist.recv(tensor, None, self._group, tag))
        except RuntimeError as error:
            raise DessimError(f"no worker was heard of for {self.patience:g} s: {first_line(error)}") from None

    def _start(self, call: Callable[..., Any], name: str, tensor: Tensor, other: int, tag: int) -> Message | None:
        if not tensor.numel():
            return None
        self.moved[name] += tensor.numel() * tensor.element_size()
        return Message(name, other, tensor, call(tensor, other, group=self._group, tag=tag))


@dataclass(slots=True)
class Message:
    """A message under way; it keeps its tensor alive."""

    name: str
    other: int
    tensor: Tensor
    _work: Any

    def wait(self) -> None:
        try:
            self._work.wait()
        except RuntimeError as error:
            raise DessimError(f"message {self.name} with process {self.other} failed: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """Without the place in gloo's source that it starts with."""
    return str(error).strip().split("\n")[0].rpartition("] ")[2]
