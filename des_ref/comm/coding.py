"""Collectives whose values travel encoded, op by op as dessim/workload/coded_plan.py plans them.

    x_encode -> (x_sizes) -> x, or x_scatter; x_wide beside it | wait: (x_sum -> x) -> x_decode

A strategy calls `Comm.all_reduce("partials", ...)` as ever; where `Comm.coding` has a channel for that op, this runs
instead. All workers add up what arrives in the same form, in the same order, so replicas stay equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from des_ref.codecs import Encoded, new_codec
from des_ref.codecs.cast import Cast
from des_ref.codecs.pruning import Pruning
from des_ref.comm.channel import Channel, Launch
from des_ref.comm.group import Comm, Handle
from dessim.workload.codecs import Sum
from dessim.workload.coded_plan import CodedOp


class Coding:
    """The channels of one worker, by name of their ops."""

    def __init__(
        self,
        ops: Mapping[str, CodedOp],
        columns: Sequence[tuple[int, bool]],
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
        measures: bool = False,
    ) -> None:
        """`columns`: how wide each part of the buffer of partials is, and whether it stays as it is. `measures`: also
        count what encoding changes."""
        stays = torch.tensor([wide for width, wide in columns for _ in range(width)], dtype=torch.bool, device=device)
        self.channels: dict[str, Channel] = {}
        for i, (name, op) in enumerate(ops.items()):
            self.channels[name] = channel = Channel(op, new_codec(op.codec, dtype, seed + i), measures=measures)
            if op.exact_width:
                channel.narrow, channel.wide = ((stays == x).nonzero()[:, 0] for x in (False, True))

    def __contains__(self, name: str) -> bool:
        return name in self.channels

    def symbols(self, name: str) -> dict[str, float]:
        """Of the size of an op what only its values say, the mean so far."""
        channel = self.channels.get(name)
        if channel is None or not channel.launches:
            return {}
        return {channel.op.density: channel.density / channel.launches}

    def sparsity(self, comm: Comm) -> dict[str, float]:
        """Of each op that is pruned, the share of all workers' values, those that were not zero, that became zero."""
        pruned = [(name, c.codec) for name, c in self.channels.items() if isinstance(c.codec, Pruning)]
        if not pruned:
            return {}
        rows = comm.gather_rows("sparsity", [float(x) for _, codec in pruned for x in (codec.given, codec.kept)])
        given, kept = torch.tensor(rows, dtype=torch.float64).sum(dim=0).view(-1, 2).unbind(dim=1)
        return dict(zip((name for name, _ in pruned), (1 - kept / given.clamp_min(1)).tolist(), strict=True))

    def lost(self, comm: Comm) -> dict[str, float]:
        """Of each op, what encoding changed in all that the workers sent, as a share of it: root mean squares."""
        rows = comm.gather_rows("lost", [x for c in self.channels.values() for x in (c.lost, c.energy)])
        sums = torch.tensor(rows, dtype=torch.float64).sum(dim=0).view(-1, 2)
        shares = (sums[:, 0] / sums[:, 1].clamp_min(1e-300)).sqrt().tolist()
        return dict(zip(self.channels, shares, strict=True))

    def gradient(self, name: str, grad: Tensor) -> Tensor:
        """[B, K] of this worker's summand, from that of the sum `name`: zero where nothing of it was sent."""
        channel = self.channels.get(name)
        if channel is None or channel.mask is None:
            return grad
        out = grad.clone()
        out[:, slice(None) if channel.narrow is None else channel.narrow] *= channel.mask
        return out

    def all_reduce(self, comm: Comm, name: str, tensor: Tensor) -> Handle:
        launch, n = Launch(comm, self.channels[name]), comm.world_size
        values = tensor.view(1, -1) if launch.op.flat else tensor
        match launch.op.codec.summing:
            case Sum.REDUCE:
                return _by_collective(launch, values, values, None)
            case Sum.SCATTER:
                return _by_owners(launch, values)
        encoded, width = launch.encode(values)
        decode = launch.channel.codec.decode
        return launch.later(
            launch.gather(encoded, width), lambda all_: decode(all_, width).view(n, -1, width).sum(dim=0), values
        )

    def reduce_scatter(self, comm: Comm, name: str, out: Tensor, tensor: Tensor) -> Handle:
        launch, rows = Launch(comm, self.channels[name]), [len(out)] * comm.world_size
        if launch.op.codec.summing is Sum.REDUCE:
            return _by_collective(launch, tensor, out, len(out))
        encoded, width = launch.encode(tensor)
        arriving, beside = launch.exchange(encoded, width, rows, rows, name), launch.beside(tensor, len(out))
        decode = launch.channel.codec.decode
        return launch.later(
            arriving, lambda parts: decode(parts, width).view(len(rows), -1, width).sum(dim=0), out, beside
        )

    def all_gather(self, comm: Comm, name: str, out: Tensor, tensor: Tensor) -> Handle:
        launch = Launch(comm, self.channels[name])
        encoded, width = launch.encode(tensor.view(-1, tensor.shape[-1]))
        decode = launch.channel.codec.decode
        return launch.later(launch.gather(encoded, width), lambda all_: decode(all_, width), out)

    def all_to_all(
        self, comm: Comm, name: str, out: Tensor, tensor: Tensor, received: list[int] | None, sent: list[int] | None
    ) -> Handle:
        launch, n = Launch(comm, self.channels[name]), comm.world_size
        values = tensor.view(n, -1) if launch.op.flat else tensor
        encoded, width = launch.encode(values)
        equal = [len(values) // n] * n
        arriving = launch.exchange(encoded, width, sent or equal, received or equal, name)
        decode = launch.channel.codec.decode
        return launch.later(arriving, lambda parts: decode(parts, width), out)


def _by_collective(launch: Launch, values: Tensor, out: Tensor, own: int | None) -> Handle:
    """An AllReduce in the form's type, or a ReduceScatter that leaves so many rows of the sum here: `own`."""
    codec = launch.channel.codec
    assert isinstance(codec, Cast)
    with launch.segment("encode"):
        narrow = launch.narrow(values)
        low = narrow.to(codec.type)
    if launch.channel.measures:
        launch.measure(narrow, low.to(codec.dtype))
    handle, sums = launch.summed(launch.name, low, own)
    return launch.later(handle.wait, lambda _: sums.to(codec.dtype), out, launch.beside(values, own))


def _by_owners(launch: Launch, values: Tensor) -> Handle:
    """Each worker adds up its share of the rows, or of a flat vector, and sends the sum to all, encoded again."""
    channel, n = launch.channel, launch.comm.world_size
    encoded, width = launch.encode(values, shares=n)
    own = len(encoded.rows) // n
    scattered = launch.exchange(encoded, width, [own] * n, [own] * n, f"{launch.name}_scatter")
    beside = launch.beside(values, None)

    def arriving() -> Encoded:
        parts = scattered()
        with launch.segment("sum"):
            again = channel.codec.encode(channel.codec.decode(parts, width).view(n, own, width).sum(dim=0))
        return launch.gather(again, width)()

    def put(everyones: Encoded) -> Tensor:
        whole = channel.codec.decode(everyones, width)
        if channel.mask is not None:
            channel.mask &= whole != 0  # of the sum, too, only the largest are sent
        return whole.view(1, -1)[:, : values.shape[1]] if launch.op.flat else whole

    return launch.later(arriving, put, values, beside)
