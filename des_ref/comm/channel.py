"""One op that travels encoded, on one worker, and one launch of it: messages out, messages in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from des_ref.codecs import Codec, Encoded
from des_ref.comm.group import Comm, Handle
from dessim.trace.schema import Phase
from dessim.workload.coded_plan import CodedOp

Arriving = Callable[[], Encoded]  # waits for messages


@dataclass(slots=True)
class Channel:
    """What an op keeps from launch to launch.

    narrow, wide   columns that are encoded and that are not; None: all are
    mask           which of the narrow values of the last sum depend on what this worker brought; None: all
    launches, density   how often it ran, and the sum of its messages' shares of values that were not zero
    lost, energy   sums of squares of what encoding changed and of what there was, where it `measures`
    """

    op: CodedOp
    codec: Codec
    narrow: Tensor | None = None
    wide: Tensor | None = None
    mask: Tensor | None = None
    measures: bool = False
    launches: int = 0
    density: float = 0.0
    lost: float = 0.0
    energy: float = 0.0


@dataclass(frozen=True, slots=True)
class Beside:
    """Columns that travel as they are."""

    handle: Handle
    values: Tensor


@dataclass(slots=True)
class Pending(Handle):
    """A collective under way whose result is made when it is waited for."""

    finish: Callable[[], None] = field(default=lambda: None)

    def wait(self) -> None:
        self.finish()


class Launch:
    """One launch over `comm`, whose tap hears of every part of it."""

    def __init__(self, comm: Comm, channel: Channel) -> None:
        self.comm, self.channel = replace(comm, coding=None), channel
        self.op, self.name = channel.op, channel.op.name

    def segment(self, what: str) -> AbstractContextManager[None]:
        """Compute `name`_`what`; its phase is the plan's to say."""
        tap = self.comm.tap
        return nullcontext() if tap is None else tap.segment(f"{self.name}_{what}", Phase.FORWARD)

    def later(
        self, arriving: Callable[[], Any], put: Callable[[Any], Tensor], target: Tensor, beside: Beside | None = None
    ) -> Pending:
        """When it is waited for: wait for all that arrives, then `put` it together into `target`."""

        def finish() -> None:
            arrived = arriving()
            if beside is not None:
                beside.handle.wait()
            with self.segment("decode"):
                self.put(target, put(arrived), beside)

        return Pending(self.name, None, self.comm, finish)

    # -- values to messages ---------------------------------------------------------------------------------------

    def encode(self, values: Tensor, shares: int = 0) -> tuple[Encoded, int]:
        """The narrow columns of [n, K], and how many there are; of a flat vector so many equal shares, if any."""
        channel = self.channel
        with self.segment("encode"):
            narrow = self.narrow(values)
            if shares and self.op.flat:
                narrow = nnf.pad(narrow, (0, -narrow.shape[1] % shares)).view(shares, -1)
            encoded, width = channel.codec.encode(narrow), narrow.shape[1]
            if channel.codec.masks:
                channel.mask = channel.codec.decode(encoded, width) != 0
        if channel.measures:
            self.measure(narrow, channel.codec.decode(encoded, width))
        return encoded, width

    def narrow(self, values: Tensor) -> Tensor:
        return values if self.channel.narrow is None else values[:, self.channel.narrow]

    def measure(self, values: Tensor, sent: Tensor) -> None:
        self.channel.lost += float((sent - values).square().sum())
        self.channel.energy += float(values.square().sum())

    def beside(self, values: Tensor, own: int | None) -> Beside | None:
        """Start the sum of the wide columns of `values`, as `summed`; None where there are none."""
        if self.channel.wide is None:
            return None
        return Beside(*self.summed(f"{self.name}_wide", values[:, self.channel.wide], own))

    def summed(self, name: str, values: Tensor, own: int | None) -> tuple[Handle, Tensor]:
        """Start the op `name`: all rows of the sum, or this worker's `own` many; and where they will be."""
        if own is None:
            return self.comm.all_reduce(name, values), values
        out = values.new_empty(own, values.shape[1])
        return self.comm.reduce_scatter(name, out, values), out

    def put(self, target: Tensor, values: Tensor, beside: Beside | None = None) -> None:
        """Into [n, K], from its narrow and its wide columns."""
        if beside is None:
            target.copy_(values.view(target.shape))
        else:
            target[:, self.channel.narrow], target[:, self.channel.wide] = values, beside.values

    # -- messages -------------------------------------------------------------------------------------------------

    def gather(self, encoded: Encoded, width: int) -> Arriving:
        """Everyone's message, to everyone; equal numbers of rows each."""
        rows, n = len(encoded.rows), self.comm.world_size
        message, _ = encoded.packed([rows])
        sizes, filled = self.channel.codec.sizes(width), [len(encoded.entries)] * n
        if self.op.codec.varies:
            own = torch.tensor([len(encoded.entries)], device=message.device)
            counts = own.new_empty(n)
            self.comm.all_gather(f"{self.name}_sizes", counts, own).wait()
            filled = counts.tolist()
            self._note(max(filled), rows * width)
        bytes_of = [sizes[0] + rows * sizes[1] + count * sizes[2] for count in filled]
        out = message.new_empty(n, max(bytes_of))
        handle = self.comm.all_gather(self.name, out.view(-1), nnf.pad(message, (0, max(bytes_of) - len(message))))

        def arrive() -> Encoded:
            handle.wait()
            return Encoded.unpacked([m[:size] for m, size in zip(out, bytes_of, strict=True)], [rows] * n, sizes)

        return arrive

    def exchange(
        self, encoded: Encoded, width: int, sent: Sequence[int], received: Sequence[int], name: str
    ) -> Arriving:
        """So many rows to each worker, and from each; in the op `name`."""
        (messages, to_send), sizes = encoded.packed(sent), self.channel.codec.sizes(width)
        to_receive = [sizes[0] + rows * sizes[1] for rows in received]
        if self.op.codec.varies:
            own = torch.tensor(to_send, device=messages.device)
            others = torch.empty_like(own)
            self.comm.all_to_all(f"{self.name}_sizes", others, own, None, None).wait()
            to_receive = others.tolist()
            self._note(len(encoded.entries), len(encoded.rows) * width)
        out = messages.new_empty(sum(to_receive))
        handle = self.comm.all_to_all(name, out, messages, to_receive, to_send)

        def arrive() -> Encoded:
            handle.wait()
            return Encoded.unpacked(out.split(to_receive), received, sizes)

        return arrive

    def _note(self, entries: int, values: int) -> None:
        density = entries / max(values, 1)
        self.channel.density += density
        self.channel.launches += 1
        if self.comm.tap is not None:
            self.comm.tap.note(self.name, {self.op.density: density})
