"""A click-through-rate model as sizes. One model file drives both trainer and simulator.

    schema_version = 1
    name = "deepfm"
    [input]
    fields = 39              # F
    ids_per_sample = 39      # m, the mean over samples
    batch_per_worker = 4096
    vocabulary = 33762577    # V, distinct ids in the data; each field has an equal share of them
    skew = 1.05              # Zipf exponent of their frequencies in a field
    [embedding]
    width = 16               # D
    optimizer = "adam"       # optimizer of rows: sgd, rowwise_adagrad (default), adagrad, adam, ftrl
    optimizer_slots = 2      # O, floats of state a row, for an optimizer that is none of these
    pooling = "sum"          # how the ids of a field are pooled: sum, mean, max or (softmax) attention
    placement = "hash"       # where DES places rows: by hash of the id; or "field": field f on rank f mod N
    [[operators]]
    kind = "mlp"             # all kinds: dessim.workload.operators.KINDS
    widths = [400, 400, 400] # H1 ...
    strategy = "des"         # for mlp and cross_v2 under DES: "mesh" sends pooled vectors, F*D floats, not partials

Dense features enter through a bottom mlp, whose output is one more embedding:

    [dense]
    features = 13
    widths = [512, 256, 16]  # ends with the embedding's width, unless all operators concatenate

Values are float32 unless the file states another precision:

    [precision]
    dense = "bf16"           # products of matrices, activations and weights: fp32, tf32, bf16, fp16, fp8
    rows = "fp16"            # rows of tables: fp32, bf16, fp16, fp8; their optimizer state stays float32
    wire = "fp16"            # values that workers send

The capital letters are the symbols of formulas (dessim.workload.symbols).

A file with schema_version = 2 lists unequal tables; `input` then has batch_per_worker alone:

    [[tables]]
    rows = 40_000_000
    ids = 3.0                # mean ids a sample
    skew = 1.05              # optional, as is `offset`
    width = 64               # optional: columns, if not those of [embedding]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from dessim.errors import ModelError
from dessim.files import parse_toml, read_toml
from dessim.wording import did_you_mean, in_words
from dessim.workload.formula import renamed
from dessim.workload.ids import IdLaw, TablesLaw, ZipfLaw
from dessim.workload.model_sections import DenseInput, Embedding, Input, Strict, Table
from dessim.workload.operators import (
    KINDS,
    WHOLE_POOLS,
    Costs,
    Output,
    Shape,
    Spec,
    pooling_costs,
)
from dessim.workload.precisions import Precisions
from dessim.workload.row_optimizers import ROW_OPTIMIZERS, RowOptimizer
from dessim.workload.symbol_values import symbols_of
from dessim.workload.symbols import ONE_WIDTH


class Model(Strict):
    """A model file. `symbols` gives the values of the symbols in formulas."""

    schema_version: Literal[1, 2]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    input: Input
    tables: tuple[Table, ...] = ()
    embedding: Embedding
    dense: DenseInput | None = None
    precision: Precisions = Precisions()
    operators: Annotated[tuple[Spec, ...], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _input_follows_from_tables(cls, raw: Any) -> Any:
        """Fill in `input` from the tables of a version 2 file."""
        if not isinstance(raw, Mapping):
            return raw
        tables = raw.get("tables") or ()
        if raw.get("schema_version") == 1 and tables:
            raise ValueError("[[tables]] needs schema_version = 2")
        if raw.get("schema_version") != 2:
            return raw
        if not tables:
            raise ValueError("schema_version = 2 needs [[tables]], one entry a table; equal tables may use version 1")
        stated = raw.get("input") or {}
        # Mistakes are reported with their key when `tables` and `input` are validated; nothing else is missing then.
        if not isinstance(stated, Mapping):
            return raw
        if not isinstance(tables, list | tuple):
            return {**raw, "input": {"fields": 1, "ids_per_sample": 1.0, **stated}}
        try:
            read = [Table.model_validate(table) for table in tables]
        except ValidationError:
            return {**raw, "input": {"fields": len(tables), "ids_per_sample": 1.0, **stated}}
        follows = {
            "fields": len(read),
            "ids_per_sample": sum(table.ids for table in read),
            "vocabulary": sum(table.rows for table in read),
            "skew": max(table.skew for table in read),
        }
        # A trace states the ids a sample that were measured, and repeats the others.
        for key in follows.keys() & stated.keys() - {"ids_per_sample"}:
            if stated[key] != follows[key]:
                raise ValueError(f"input.{key} follows from [[tables]]; remove it")
        return {**raw, "input": {**follows, **stated}}

    @model_validator(mode="after")
    def _tables_are_of_one_kind(self) -> Model:
        for number, table in enumerate(self.tables):
            if table.pooling not in (None, self.embedding.pooling):
                raise ValueError(
                    f'tables.{number}.pooling = "{table.pooling}": all tables are pooled as [embedding] says'
                )
        return self

    @model_validator(mode="after")
    def _operators_take_the_widths(self) -> Model:
        """Operators that multiply vectors with one another need vectors of one width."""
        if self.has_one_width:
            return self
        width = self.widths[0]
        number = next((i for i, other in enumerate(self.widths) if other != width), None)
        if number is not None:
            differs = f"tables.{number}.width = {self.widths[number]} and tables.0.width = {width} differ"
        else:
            differs = f"dense.widths ends with {self.bottom_width}, and tables have {width} columns"
        for o in self.operators:
            if not o.any_widths:
                raise ValueError(
                    f'operator "{o.kind}" needs vectors of one width: {differs}; write equal widths, or use operators '
                    "that concatenate: lr, mlp, cross, cross_v2, towers, head"
                )
        if self.pools_apart and any(o.reads == "v" for o in self.operators):
            raise ValueError(f'pooling = "{self.embedding.pooling}" needs vectors of one width: {differs}')
        return self

    @field_validator("operators")
    @classmethod
    def _each_kind_once(cls, operators: tuple[Spec, ...]) -> tuple[Spec, ...]:
        kinds = [o.kind for o in operators]
        if len(set(kinds)) != len(kinds):
            raise ValueError("each operator kind at most once")
        # The buffer of partials has a fixed order, whatever the order in the file.
        return tuple(sorted(operators, key=lambda o: KINDS.index(o.kind)))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Operator kinds in the order of the buffer of partials."""
        return tuple(o.kind for o in self.operators)

    @model_validator(mode="after")
    def _placement_fits(self) -> Model:
        for o in self.operators:
            if o.not_by_hash and not self.by_field:
                raise ValueError(f'operator "{o.kind}" needs placement = "field" under [embedding]: {o.not_by_hash}')
            if self.pools_apart and not self.by_field and o.sums_only:
                raise ValueError(
                    f'operator "{o.kind}" works on sums: write pooling = "sum" or "mean" under [embedding], or '
                    'placement = "field", which has all ids of a field together'
                )
            if o.alone and len(self.operators) > 1:
                raise ValueError(f'operator "{o.kind}" must be the only one: {o.alone}')
            if wrong := o.misfit(self.shape):
                raise ValueError(f'operator "{o.kind}": {wrong}')
        return self

    @property
    def law(self) -> IdLaw:
        """The law of the ids. In a version 1 file each field has its own table, with an equal share of the rows."""
        if self.tables:
            ids = sum(table.ids for table in self.tables)
            return TablesLaw(tuple(table.law for table in self.tables), tuple(table.ids / ids for table in self.tables))
        rows = max(self.input.vocabulary, float(self.input.fields))
        return ZipfLaw(rows, self.input.skew, self.input.fields)

    @model_validator(mode="after")
    def _dense_inputs_are_read(self) -> Model:
        if self.dense is None:
            return self
        for o in self.operators:
            reads_operand = o.needs_operand(self.by_field) or (o.kind == "mlp" and self.needs_operand)
            if not reads_operand and not o.reads_tables_alone:
                raise ValueError(
                    f'operator "{o.kind}" cannot be substituted where [dense] adds the output of a bottom mlp: write '
                    'strategy = "mesh", or use dot, inner, towers or head'
                )
        if not self.needs_operand:
            raise ValueError(
                "no operator reads the output of the bottom mlp: add dot, inner, towers or head, or remove [dense]"
            )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """The columns of each field's table."""
        width = self.embedding.width
        return tuple(table.width or width for table in self.tables) or (width,) * self.input.fields

    @property
    def bottom_width(self) -> int:
        """Floats of the bottom mlp's output; 0 without dense inputs."""
        return self.dense.widths[-1] if self.dense is not None else 0

    @property
    def tables_have_one_width(self) -> bool:
        return len(set(self.widths)) == 1

    @property
    def has_one_width(self) -> bool:
        """Whether all vectors of a sample have the same width, that of the bottom mlp's output included."""
        return self.tables_have_one_width and self.bottom_width in (0, self.widths[0])

    @property
    def dense_features(self) -> int:
        """Dense features of a sample."""
        return self.dense.features if self.dense is not None else 0

    @property
    def pools_apart(self) -> bool:
        """Whether pooled field vectors are not sums of rows. Under hash placement DES computes them in rounds."""
        return self.embedding.pooling in WHOLE_POOLS

    @property
    def by_field(self) -> bool:
        """Whether DES places whole fields on a worker."""
        return self.embedding.placement == "field"

    @property
    def pools_mean(self) -> bool:
        """Whether pooled field vectors are means, for which the size of each bag must be known."""
        return self.embedding.pooling == "mean"

    @property
    def bag_floats(self) -> int:
        """E: floats that a bag carries beside the sum of its rows: those of operators, and its size for a mean."""
        return max(c.bag_floats for c in self.costs) + self.pools_mean

    @property
    def needs_operand(self) -> bool:
        """Whether the pooled vectors of all fields must cross the network, because an operator does not separate."""
        apart = self.pools_apart and not self.by_field and "mlp" in self.kinds
        return apart or any(o.needs_operand(self.by_field) for o in self.operators)

    @property
    def shape(self) -> Shape:
        names = tuple(table.name for table in self.tables)
        return Shape(self.widths, names, self.bottom_width, self.needs_operand, self.by_field)

    @cached_property
    def costs(self) -> tuple[Costs, ...]:
        """Costs of pooling by maximum or attention, of the pooled operand if one is needed, then of each operator."""
        shape = self.shape
        pooling = pooling_costs(self.embedding.pooling, shape.operand, shape.by_field)
        costs = (*pooling, *(o.costs(shape) for o in self.operators))
        return renamed(costs, ONE_WIDTH) if self.tables_have_one_width else costs

    @property
    def partials(self) -> tuple[tuple[Costs, bool], ...]:
        """The parts of the buffer of partials in order, and whether codecs must leave each as it is."""
        exact_kinds: set[str] = {o.kind for o in self.operators if o.exact_partials}
        if self.needs_operand and self.embedding.pooling == "attention" and not self.by_field:
            exact_kinds.add("operand")  # sums that are divided by one another
        return tuple((c, c.kind in exact_kinds) for c in self.costs if c.wire)

    @property
    def output(self) -> Output | None:
        """The softmax over ids in which the model ends; None if it ends in the logit of a click."""
        return next((c.output for c in self.costs if c.output is not None), None)

    @property
    def row_widths(self) -> dict[str, int]:
        """The value columns of a row of the widest table and their floats: `row_widths_of`."""
        return self.row_widths_of(max(self.widths))

    def row_widths_of(self, width: int) -> dict[str, int]:
        """The value columns of a row of a table of `width` columns and their floats: the linear weight w and the
        embedding v, if operators read them, and the output o that scores codes."""
        widths = {"w": 1, "v": width}
        read = {name: width for name, width in widths.items() if any(o.reads == name for o in self.operators)}
        return read | ({"o": self.output.row} if self.output is not None else {})

    @property
    def row_width(self) -> int:
        """Floats a row of the widest table."""
        return sum(self.row_widths.values())

    @property
    def row_slots(self) -> int:
        """Floats of optimizer state a row of the widest table."""
        return self.row_slots_of(max(self.widths))

    def row_slots_of(self, width: int) -> int:
        """Floats of optimizer state a row of a table of `width` columns."""
        slots = self.embedding.optimizer_slots
        return self.row_optimizer.slots(self.row_widths_of(width).values()) if slots is None else slots

    @property
    def row_optimizer(self) -> RowOptimizer:
        return ROW_OPTIMIZERS[self.embedding.optimizer]

    def trained_by(self, optimizer: str) -> Model:
        """The same model with another optimizer of rows, one of ROW_OPTIMIZERS."""
        assert optimizer in ROW_OPTIMIZERS, optimizer
        changed = self.embedding.model_copy(update={"optimizer": optimizer, "optimizer_slots": None})
        return self.model_copy(update={"embedding": changed})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Model:
        """A copy, whose costs are derived anew: they may follow from what changes."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("costs", None)
        return copied

    def at(self, precisions: Precisions) -> Model:
        """The same model in other precisions."""
        return self.model_copy(update={"precision": precisions})

    def placed(self, placement: str | None) -> Model:
        """The same model with another placement of rows; None keeps the file's. Raises ModelError if it cannot be."""
        return self._embedded("placement", placement)

    def pooled(self, pooling: str | None) -> Model:
        """The same model with another pooling of ids; None keeps the file's. Raises ModelError if it cannot be."""
        return self._embedded("pooling", pooling)

    def _embedded(self, key: str, value: str | None) -> Model:
        if value is None:
            return self
        raw = self.model_dump()
        raw["embedding"][key] = value
        return parse_model(raw, self.name)

    def symbols(
        self, world_size: int, batch: float | None = None, unique: Callable[[float], float] | None = None
    ) -> dict[str, float]:
        """Values of all symbols for a job of `world_size` workers and a global batch of `batch` samples.

        `batch` defaults to batch_per_worker * world_size. `unique(draws)` gives the number of distinct ids among a
        number of draws; it defaults to the Zipf law of the file.
        """
        return symbols_of(self, world_size, batch, unique)


def parse_model(raw: Mapping[str, Any], path: str | Path) -> Model:
    """A model from a TOML table (or a trace header). Raises ModelError naming the key."""
    try:
        return Model.model_validate(raw)
    except ValidationError as error:
        errors = error.errors()
        # A list with a wrong entry is also reported as too short, because the entry was left out.
        within = {e["loc"][:depth] for e in errors for depth in range(len(e["loc"]))}
        errors = [e for e in errors if e["type"] != "too_short" or e["loc"] not in within]
        problems = [f"{_key(e['loc'], e['type'])}: {in_words(e)}" for e in errors]
        raise ModelError(path, "", "; ".join(problems)) from None


def _key(loc: tuple[int | str, ...], error: str) -> str:
    """The key as the file names it: pydantic inserts an operator's kind between its index and its key."""
    parts = [str(part) for part in loc]
    if parts[:1] == ["operators"]:
        parts[2:3] = ["kind"] if error.startswith("union_tag") else []
    return ".".join(parts) or "file"


_SHIPPED = files("dessim.workload").joinpath("models")


def shipped_models() -> list[str]:
    """Names of the models that dessim ships."""
    return sorted(p.name.removesuffix(".toml") for p in _SHIPPED.iterdir() if p.name.endswith(".toml"))


def load_model(name: str | Path) -> Model:
    """A model by file path, or by the name of a shipped one (`deepfm`). Raises ModelError."""
    path = Path(name)
    if path.suffix or path.exists():
        return parse_model(read_toml(path, ModelError), path)
    names = shipped_models()
    if str(name) not in names:
        hint = did_you_mean(str(name), names)
        raise ModelError(name, "", f"no such model file; {hint}shipped models: {', '.join(names)}")
    return parse_model(parse_toml(_SHIPPED.joinpath(f"{name}.toml").read_text("utf-8")), path)
