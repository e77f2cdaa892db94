"""A job at other numbers of ranks: the values of its symbols, and where each number comes from.

Sizes are formulas, so only symbols change. N and B follow from the scale, and m, the mean ids a sample, is kept. The
numbers of distinct ids u and U follow Heaps' law through the two counts in a trace: distinct ids of one worker and
of the global batch. Without a trace the Zipf law of the model file gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dessim.errors import TraceError
from dessim.trace.io import HEADER_FILE, Trace
from dessim.trace.schema import Header, Kind
from dessim.workload.ids import HeapsLaw
from dessim.workload.model import Model, parse_model
from dessim.workload.symbol_values import VALUE_BYTES, value_bytes


@dataclass(frozen=True, slots=True)
class Job:
    """A model to train, how its ids repeat, and measurements of it.

    `sizes_from`: the source of the symbols, in words.
    `unique`: the number of distinct ids among a number of drawn ids; None for the Zipf law of the model file.
    `value_bytes`: bytes of a value in the recorded run, unless the model states a precision.
    `strategy`, `device`: of the recorded run, if there is one.
    `measured_s`: mean seconds of each compute op in that run, at `measured_symbols`.
    """

    model: Model
    sizes_from: str
    unique: Callable[[float], float] | None = None
    value_bytes: float = VALUE_BYTES
    strategy: str | None = None
    device: str | None = None
    measured_s: Mapping[str, float] = field(default_factory=dict)
    measured_symbols: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_model(cls, model: Model) -> Job:
        """A job that has not been recorded."""
        skews = sorted({table.skew for table in model.tables} or {model.input.skew})
        skew = f"{skews[0]:g}" if len(skews) == 1 else f"{skews[0]:g} to {skews[-1]:g}"
        return cls(model, f"assumed: model file {model.name!r}, Zipf skew {skew}")

    @classmethod
    def of_trace(cls, trace: Trace) -> Job:
        """A recorded job. Raises TraceError if the header lacks the model or its symbols."""
        return replace(cls.of_header(trace.header, trace.path / HEADER_FILE), measured_s=_mean_compute(trace))

    @classmethod
    def of_header(cls, header: Header, path: Path = Path(HEADER_FILE)) -> Job:
        """A recorded job's sizes, without times; `path` is the header's, for errors. Raises TraceError."""
        if not header.model:
            what = "is empty, as in traces imported from profiles: such a trace can be replayed, not projected"
            raise TraceError(path, "model", what)
        model = parse_model(header.model, path)
        missing = [name for name in ("N", "B", "m", "u", "U") if not header.symbols.get(name, 0) > 0]
        if missing:
            raise TraceError(path, "symbols", f"{missing[0]!r} is missing or zero")
        n = header.symbols["N"]
        b = header.symbols["B"]
        m = header.symbols["m"]
        law = HeapsLaw.through(b / n * m, header.symbols["u"], b * m, header.symbols["U"])
        measured_input = model.input.model_copy(update={"ids_per_sample": m, "batch_per_worker": int(b / n)})
        return cls(
            model=model.model_copy(update={"input": measured_input}),
            sizes_from=f"measured at {header.world_size} ranks; Heaps exponent of different ids {law.exponent:.3f}",
            unique=law.unique,
            value_bytes=header.symbols.get("s", VALUE_BYTES),
            strategy=header.strategy,
            device=header.device,
            # Older traces lack some symbols; the model supplies them.
            measured_symbols={
                **model.symbols(int(n), b, law.unique),
                **value_bytes(header.symbols.get("s", VALUE_BYTES)),
                **header.symbols,
            },
        )

    def symbols(self, n: int, batch_per_worker: int | None = None) -> dict[str, float]:
        """Values of the symbols for `n` workers with `batch_per_worker` samples each (default: the model's)."""
        per_worker = batch_per_worker if batch_per_worker is not None else self.model.input.batch_per_worker
        symbols = self.model.symbols(n, per_worker * n, self.unique)
        return symbols | (value_bytes(self.value_bytes) if self.model.precision.is_default else {})


def _mean_compute(trace: Trace) -> dict[str, float]:
    """Mean seconds a step of each compute op, over ranks and steps."""
    total: dict[str, float] = {}
    for ops in trace.ranks:
        for op in ops:
            if op.kind is Kind.COMPUTE:
                total[op.name] = total.get(op.name, 0.0) + op.dur_us * 1e-6
    steps = max(len(trace.header.recorded_steps), 1) * trace.header.world_size
    return {name: seconds / steps for name, seconds in total.items()}
