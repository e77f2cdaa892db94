"""The facts that the rest of the code needs about a strategy, beside its plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dessim.errors import UsageError
from dessim.workload.formula import renamed
from dessim.workload.model import Model
from dessim.workload.options import Options
from dessim.workload.plan import Placement, Plan
from dessim.workload.strategies.shampoo import with_shampoo
from dessim.workload.symbols import ONE_WIDTH


def refuse_unless_sums(model: Model, options: Options) -> str:
    """Why a strategy that sends rows or pooled vectors to the samples cannot train `model`; empty if it can."""
    if model.pools_apart:
        return f'moves sums of rows, {model.name} has pooling = "{model.embedding.pooling}": use a des_* strategy'
    if model.output is not None:
        return (
            f"moves inputs to where their samples are, and {model.name} scores every sample against the rows of all ids"
            " in the global batch: use a des_* strategy"
        )
    return ""


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """One training strategy.

    `name`: as it is written, without options.
    `build`: its plan for a model, given options other than shampoo.
    `options`: the options it takes, by name (dessim.workload.options).
    `refuses`: why it cannot train a model with these options, as a predicate of its name; empty if it can.
    `substitutes`: whether it substitutes operators (DES), so that a model's placement of rows applies to it.
    `has_servers`: whether it has parameter servers, which may run on dedicated hosts.
    `dedicated_servers`: whether its servers are always separate processes. Then its messages are no collectives:
        they cannot be traced, encoded, or replayed beside other jobs.
    `synchronous`: whether all workers take a step together.
    `pipelines`: whether ops of Phase.INPUT may run a step ahead.
    `traced_as`: the strategy whose traces give the compute of its steps; empty if its own do.
    `table_placement`: where it keeps the rows of a table in a composed plan; None if it trains whole models only.
    """

    name: str
    build: Callable[[Model, Options], Plan]
    options: tuple[str, ...] = ()
    refuses: Callable[[Model, Options], str] = refuse_unless_sums
    substitutes: bool = False
    has_servers: bool = False
    dedicated_servers: bool = False
    synchronous: bool = True
    pipelines: bool = True
    traced_as: str = ""
    table_placement: Placement | None = None

    def plan(self, model: Model, options: Options) -> Plan:
        """The plan of a step. Raises UsageError if the strategy cannot train the model."""
        own = replace(options, shampoo=False)
        reason = self.refuses(model, options)
        if own and not reason and not model.tables_have_one_width:
            reason = f"keeps rows of one width, {model.name} has tables of different widths: leave the option out"
        if reason:
            raise UsageError(f"{self.name}{options} {reason}")
        built = self.build(model, own)
        if model.tables_have_one_width:
            built = renamed(built, ONE_WIDTH)
        built = replace(
            built,
            options=options,
            pipelines=self.pipelines,
            precision=model.precision.dense,
        )
        return with_shampoo(built) if options.shampoo else built
