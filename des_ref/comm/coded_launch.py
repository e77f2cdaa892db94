"""One encoded op on one worker: the state it keeps from launch to launch, and a single launch of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from des_ref.codecs import Codec, Encoded
from des_ref.comm.group import Comm, Handle
from dessim.trace.schema import Phase
from dessim.workload.coded_plan import CodedOp

Receive = Callable[[], Encoded]  # waits for the messages of a launch and returns them


@dataclass(slots=True)
class Channel:
    """The state of one encoded op.

    narrow, wide   int64: the columns that are encoded and those that are not; None: all are encoded
    mask           bool [rows, narrow]: which values of the last sum depend on what this worker sent; None: all do
    launches       number of launches whose message size depended on the values
    density        sum over those launches of the share of non-zero values
    lost, energy   sums of squares of the change by encoding and of the values, if `measure_loss` is set
    """

    op: CodedOp
    codec: Codec
    narrow: Tensor | None = None
    wide: Tensor | None = None
    mask: Tensor | None = None
    measure_loss: bool = False
    launches: int = 0
    density: float = 0.0
    lost: float = 0.0
    energy: float = 0.0


@dataclass(frozen=True, slots=True)
class WideColumns:
    """The columns that travel uncompressed, in flight."""

    handle: Handle
    values: Tensor


@dataclass(slots=True)
class DecodingHandle(Handle):
    """A collective in flight whose result is decoded by `wait`."""

    finish: Callable[[], None] = field(default=lambda: None)

    def wait(self) -> None:
        self.finish()


class Launch:
    """One launch of an encoded op over `comm`, whose tap sees each of its parts as a separate op."""

    def __init__(self, comm: Comm, channel: Channel) -> None:
        self.comm = comm
        self.channel = channel
        self.codec = channel.codec
        self.op = channel.op
        self.name = channel.op.name

    def segment(self, suffix: str) -> AbstractContextManager[None]:
        """Mark the compute op `name`_`suffix`."""
        tap = self.comm.tap
        # The recorder takes the phase from the plan; the one given here is ignored.
        return nullcontext() if tap is None else tap.segment(f"{self.name}_{suffix}", Phase.FORWARD)

    def decode_on_wait(
        self,
        receive: Callable[[], Any],
        decode: Callable[[Any], Tensor],
        target: Tensor,
        wide: WideColumns | None = None,
    ) -> DecodingHandle:
        """A handle whose `wait` receives all messages, decodes them and writes the result into `target`."""

        def finish() -> None:
            messages = receive()
            if wide is not None:
                wide.handle.wait()
            with self.segment("decode"):
                self._write(target, decode(messages), wide)

        return DecodingHandle(self.name, None, self.comm, finish)

    def _write(self, target: Tensor, narrow: Tensor, wide: WideColumns | None) -> None:
        """Fill `target` [n, K] from its encoded and its uncompressed columns."""
        if wide is None:
            target.copy_(narrow.view(target.shape))
        else:
            target[:, self.channel.narrow] = narrow
            target[:, self.channel.wide] = wide.values

    # -- values to messages ---------------------------------------------------------------------------------------

    def encode(self, values: Tensor, shares: int = 0) -> tuple[Encoded, int]:
        """Encode the narrow columns of `values` [n, K]; also returns how many there are.

        With `shares`, a flat vector is first padded and cut into that many equal rows.
        """
        channel = self.channel
        codec = self.codec
        with self.segment("encode"):
            narrow = self.narrow(values)
            if shares and self.op.flat:
                narrow = nnf.pad(narrow, (0, -narrow.shape[1] % shares)).view(shares, -1)
            encoded = codec.encode(narrow)
            width = narrow.shape[1]
            if codec.masks:
                channel.mask = codec.decode(encoded, width) != 0
        if channel.measure_loss:
            self.measure(narrow, codec.decode(encoded, width))
        return encoded, width

    def narrow(self, values: Tensor) -> Tensor:
        return values if self.channel.narrow is None else values[:, self.channel.narrow]

    def measure(self, values: Tensor, decoded: Tensor) -> None:
        self.channel.lost += float((decoded - values).square().sum())
        self.channel.energy += float(values.square().sum())

    def sum_wide(self, values: Tensor, own_rows: int | None) -> WideColumns | None:
        """Start the sum of the uncompressed columns of `values`, if there are any, as `start_sum` does."""
        if self.channel.wide is None:
            return None
        handle, sums = self.start_sum(f"{self.name}_wide", values[:, self.channel.wide], own_rows)
        return WideColumns(handle, sums)

    def start_sum(self, name: str, values: Tensor, own_rows: int | None) -> tuple[Handle, Tensor]:
        """Start the AllReduce `name` of `values`, or a ReduceScatter that leaves `own_rows` rows on this worker.

        Returns the handle and the tensor that holds the result after the wait.
        """
        if own_rows is None:
            return self.comm.all_reduce(name, values), values
        out = values.new_empty(own_rows, values.shape[1])
        return self.comm.reduce_scatter(name, out, values), out

    # -- messages -------------------------------------------------------------------------------------------------

    def gather(self, encoded: Encoded, width: int) -> Receive:
        """Start sending this worker's message to all workers, each with the same number of rows."""
        rows = len(encoded.rows)
        n = self.comm.world_size
        message, _ = encoded.packed([rows])
        sizes = self.codec.sizes(width)
        entries = [len(encoded.entries)] * n
        if self.op.codec.varies:
            own = torch.tensor([len(encoded.entries)], device=message.device)
            counts = own.new_empty(n)
            self.comm.all_gather(f"{self.name}_sizes", counts, own).wait()
            entries = counts.tolist()
            self._note_density(max(entries), rows * width)
        lengths = [sizes[0] + rows * sizes[1] + count * sizes[2] for count in entries]
        out = message.new_empty(n, max(lengths))
        handle = self.comm.all_gather(self.name, out.view(-1), nnf.pad(message, (0, max(lengths) - len(message))))

        def receive() -> Encoded:
            handle.wait()
            return Encoded.unpacked([m[:size] for m, size in zip(out, lengths, strict=True)], [rows] * n, sizes)

        return receive

    def exchange(
        self, encoded: Encoded, width: int, sent: Sequence[int], received: Sequence[int], name: str
    ) -> Receive:
        """Start the AllToAll `name`: `sent[r]` rows to each rank r, `received[r]` rows from it."""
        messages, to_send = encoded.packed(sent)
        sizes = self.codec.sizes(width)
        to_receive = [sizes[0] + rows * sizes[1] for rows in received]
        if self.op.codec.varies:
            own = torch.tensor(to_send, device=messages.device)
            others = torch.empty_like(own)
            self.comm.all_to_all(f"{self.name}_sizes", others, own, None, None).wait()
            to_receive = others.tolist()
            self._note_density(len(encoded.entries), len(encoded.rows) * width)
        out = messages.new_empty(sum(to_receive))
        handle = self.comm.all_to_all(name, out, messages, to_receive, to_send)

        def receive() -> Encoded:
            handle.wait()
            return Encoded.unpacked(out.split(to_receive), received, sizes)

        return receive

    def _note_density(self, entries: int, values: int) -> None:
        density = entries / max(values, 1)
        self.channel.density += density
        self.channel.launches += 1
        if self.comm.tap is not None:
            self.comm.tap.note(self.name, {self.op.density: density})
