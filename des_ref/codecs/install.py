"""Codecs on a strategy's wire. The strategy does not know: its plan says so, and its collectives do so."""

from __future__ import annotations

from des_ref.comm import Comm
from des_ref.comm.coding import Coding
from des_ref.strategies.base import Strategy
from dessim.errors import UsageError
from dessim.workload.codecs import CodecConfig
from dessim.workload.coded_plan import coded, coded_ops


def use_codecs(codes: CodecConfig, strategy: Strategy, comm: Comm, seed: int, measures: bool = False) -> None:
    """From here on values travel so; `comm` is the strategy's own. Raises UsageError where none of them would.

    `measures`: count what encoding changes, too.
    """
    comm.coding = None
    if not codes:
        return
    if comm.wire is not None:
        raise UsageError(f"codecs {codes}: ps_async sends to servers as they are; use ps_sync, or leave codecs out")
    network = strategy.network
    ops = coded_ops(strategy.plan, network.model, codes)
    symbols = network.model.symbols(comm.world_size)
    columns = [(round(part.wire.evaluate(symbols)), exact) for part, exact in network.model.partials]
    strategy.plan = coded(strategy.plan, network.model, codes)
    # Other workers draw other random numbers.
    seed = (seed * 1009 + comm.rank) * 1009
    comm.coding = Coding(ops, columns, network.dtype, network.device, seed, measures)
