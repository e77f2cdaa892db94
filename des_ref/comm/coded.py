"""Collectives whose values are encoded, op by op as dessim/workload/coded_plan.py plans them.

    at launch    x_encode -> (x_sizes) -> x or x_scatter, with x_wide in flight at the same time
    at the wait  (x_sum -> x) -> x_decode

A strategy calls `comm.all_reduce("partials", ...)` as it would on a plain `Comm`. `CodedComm` runs the sequence above
for ops that have a codec and hands every other call to the group that it wraps. All workers decode the same messages
and add them up in the same order, so replicas stay bit-identical.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from des_ref.codecs import Encoded, new_codec
from des_ref.codecs.cast import Cast
from des_ref.codecs.pruning import Pruning
from des_ref.comm.coded_launch import Channel, Launch
from des_ref.comm.group import Comm, Handle, Tap
from dessim.errors import UsageError
from dessim.workload.codecs import CodecConfig, Sum
from dessim.workload.coded_plan import coded_ops
from dessim.workload.model import Model
from dessim.workload.plan import Plan


@dataclass(frozen=True, slots=True)
class Encoding:
    """The codecs of a run, the seed of those that draw random numbers, and whether to measure what encoding changes."""

    codecs: CodecConfig
    seed: int = 0
    measure_loss: bool = False

    def around(self, comm: Comm, plan: Plan, model: Model, dtype: torch.dtype) -> CodedComm:
        """`comm` with a codec for each op of `plan` (a strategy's, uncoded) that these codecs apply to.

        Raises UsageError if a codec was requested and no op of the plan can use it.
        """
        if comm.wire is not None:
            text = f"codecs {self.codecs}: ps_async sends values to servers unencoded"
            raise UsageError(f"{text}; use ps_sync, or leave codecs out")
        # Every worker and every op draws its own random numbers.
        first_seed = (self.seed * 1009 + comm.rank) * 1009
        is_wide = _wide_columns(model, comm)
        channels = {}
        for i, (name, op) in enumerate(coded_ops(plan, model, self.codecs).items()):
            channel = Channel(op, new_codec(op.codec, dtype, first_seed + i), measure_loss=self.measure_loss)
            if op.exact_width:
                channel.narrow = (~is_wide).nonzero()[:, 0]
                channel.wide = is_wide.nonzero()[:, 0]
            channels[name] = channel
        return CodedComm(comm, self.codecs, channels)


def _wide_columns(model: Model, comm: Comm) -> Tensor:
    """bool [K]: which columns of the buffer of partials are never encoded."""
    symbols = model.symbols(comm.world_size)
    is_wide: list[bool] = []
    for part, is_exact in model.partials:
        is_wide += [is_exact] * round(part.wire.evaluate(symbols))
    return torch.tensor(is_wide, dtype=torch.bool, device=comm.device)


class CodedComm:
    """A `Comm` whose collectives encode the values of some ops; `channels` holds those, by name.

    Whatever codecs do not change (rank, world size, barrier, point-to-point messages, ...) is the wrapped group's.
    """

    def __init__(self, comm: Comm, codecs: CodecConfig, channels: Mapping[str, Channel]) -> None:
        self._comm = comm
        self.codecs = codecs
        self.channels = channels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    @property
    def tap(self) -> Tap | None:
        return self._comm.tap

    @tap.setter
    def tap(self, tap: Tap | None) -> None:
        self._comm.tap = tap

    # -- statistics of the encoded values -------------------------------------------------------------------------

    def density(self, name: str) -> dict[str, float]:
        """The symbol for the share of non-zero values that op `name` sent, mean so far; empty if its size is fixed."""
        channel = self.channels.get(name)
        if channel is None or not channel.launches:
            return {}
        return {channel.op.density: channel.density / channel.launches}

    def sparsity(self) -> dict[str, float]:
        """For each pruned op, the share of non-zero values that pruning set to zero, over all workers."""
        pruned = {name: c.codec for name, c in self.channels.items() if isinstance(c.codec, Pruning)}
        if not pruned:
            return {}
        counts = [float(count) for codec in pruned.values() for count in (codec.nonzero_in, codec.nonzero_out)]
        rows = self._comm.gather_rows("sparsity", counts)
        before, after = torch.tensor(rows, dtype=torch.float64).sum(dim=0).view(-1, 2).unbind(dim=1)
        return dict(zip(pruned, (1 - after / before.clamp_min(1)).tolist(), strict=True))

    def encoding_loss(self) -> dict[str, float]:
        """For each op, the RMS of the change by encoding relative to the RMS of the values, over all workers.

        Zero unless `Encoding.measure_loss` is set.
        """
        rows = self._comm.gather_rows("lost", [x for c in self.channels.values() for x in (c.lost, c.energy)])
        sums = torch.tensor(rows, dtype=torch.float64).sum(dim=0).view(-1, 2)
        shares = (sums[:, 0] / sums[:, 1].clamp_min(1e-300)).sqrt().tolist()
        return dict(zip(self.channels, shares, strict=True))

    # -- collectives ----------------------------------------------------------------------------------------------

    def gradient(self, name: str, grad: Tensor) -> Tensor:
        """[B, K]: the gradient of this worker's partials from that of the sum `name`; zero where nothing was sent."""
        channel = self.channels.get(name)
        if channel is None or channel.mask is None:
            return grad
        out = grad.clone()
        out[:, slice(None) if channel.narrow is None else channel.narrow] *= channel.mask
        return out

    def all_reduce(self, name: str, tensor: Tensor) -> Handle:
        if name not in self.channels:
            return self._comm.all_reduce(name, tensor)
        launch = self._launch(name)
        values = tensor.view(1, -1) if launch.op.flat else tensor
        match launch.op.codec.summing:
            case Sum.REDUCE:
                return _sum_by_collective(launch, values, out=values, own_rows=None)
            case Sum.SCATTER:
                return _sum_by_owners(launch, values)
        encoded, width = launch.encode(values)
        receive = launch.gather(encoded, width)
        return launch.decode_on_wait(receive, lambda messages: _decoded_sum(launch, messages, width), values)

    def reduce_scatter(self, name: str, out: Tensor, tensor: Tensor) -> Handle:
        if name not in self.channels:
            return self._comm.reduce_scatter(name, out, tensor)
        launch = self._launch(name)
        if launch.op.codec.summing is Sum.REDUCE:
            return _sum_by_collective(launch, tensor, out, own_rows=len(out))
        rows = [len(out)] * self._comm.world_size
        encoded, width = launch.encode(tensor)
        receive = launch.exchange(encoded, width, sent=rows, received=rows, name=name)
        wide = launch.sum_wide(tensor, own_rows=len(out))
        return launch.decode_on_wait(receive, lambda messages: _decoded_sum(launch, messages, width), out, wide)

    def all_gather(self, name: str, out: Tensor, tensor: Tensor) -> Handle:
        if name not in self.channels:
            return self._comm.all_gather(name, out, tensor)
        launch = self._launch(name)
        encoded, width = launch.encode(tensor.view(-1, tensor.shape[-1]))
        receive = launch.gather(encoded, width)
        return launch.decode_on_wait(receive, lambda messages: launch.codec.decode(messages, width), out)

    def all_to_all(
        self, name: str, out: Tensor, tensor: Tensor, out_splits: list[int] | None, in_splits: list[int] | None
    ) -> Handle:
        if name not in self.channels:
            return self._comm.all_to_all(name, out, tensor, out_splits, in_splits)
        launch = self._launch(name)
        n = self._comm.world_size
        values = tensor.view(n, -1) if launch.op.flat else tensor
        encoded, width = launch.encode(values)
        equal = [len(values) // n] * n
        receive = launch.exchange(encoded, width, sent=in_splits or equal, received=out_splits or equal, name=name)
        return launch.decode_on_wait(receive, lambda messages: launch.codec.decode(messages, width), out)

    def _launch(self, name: str) -> Launch:
        return Launch(self._comm, self.channels[name])


def _decoded_sum(launch: Launch, messages: Encoded, width: int) -> Tensor:
    """[rows, width]: the workers' messages decoded and added up in rank order."""
    return launch.codec.decode(messages, width).view(launch.comm.world_size, -1, width).sum(dim=0)


def _sum_by_collective(launch: Launch, values: Tensor, out: Tensor, own_rows: int | None) -> Handle:
    """An AllReduce in the codec's own float type; with `own_rows`, a ReduceScatter that leaves that many rows here."""
    codec = launch.codec
    assert isinstance(codec, Cast)
    with launch.segment("encode"):
        narrow = launch.narrow(values)
        low = narrow.to(codec.type)
    if launch.channel.measure_loss:
        launch.measure(narrow, low.to(codec.dtype))
    handle, sums = launch.start_sum(launch.name, low, own_rows)
    wide = launch.sum_wide(values, own_rows)
    return launch.decode_on_wait(handle.wait, lambda _: sums.to(codec.dtype), out, wide)


def _sum_by_owners(launch: Launch, values: Tensor) -> Handle:
    """Each worker sums its share of the rows (or of a flat vector), encodes the sum and sends it to all others."""
    channel = launch.channel
    n = launch.comm.world_size
    encoded, width = launch.encode(values, shares=n)
    own_rows = len(encoded.rows) // n
    rows = [own_rows] * n
    receive_shares = launch.exchange(encoded, width, sent=rows, received=rows, name=f"{launch.name}_scatter")
    wide = launch.sum_wide(values, own_rows=None)

    def receive_sums() -> Encoded:
        messages = receive_shares()
        with launch.segment("sum"):
            encoded_sum = channel.codec.encode(_decoded_sum(launch, messages, width))
        return launch.gather(encoded_sum, width)()

    def decode_sums(messages: Encoded) -> Tensor:
        whole = channel.codec.decode(messages, width)
        if channel.mask is not None:
            channel.mask &= whole != 0  # only the largest values of the sum are sent, too
        return whole.view(1, -1)[:, : values.shape[1]] if launch.op.flat else whole

    return launch.decode_on_wait(receive_sums, decode_sums, values, wide)
