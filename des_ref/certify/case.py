"""One case of the certificate: the model, the strategy and the optimizers to train with, and the batches to train on.

The data are synthetic: multi-hot ids that follow Zipf's law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from des_ref.comm import Comm, Encoding
from des_ref.data.batch import Batch
from des_ref.data.synthetic import Zipf
from des_ref.embedding.optim import ROW_OPTIMIZERS, RowAdagrad
from des_ref.embedding.widths import widths_of
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.strategies import build
from des_ref.strategies.base import Optimizers, Strategy
from dessim.workload.codecs import CodecConfig, parse_codecs
from dessim.workload.composed import TablePlan, describe
from dessim.workload.id_logs.in_model import model_with_ids
from dessim.workload.model import Model, parse_model
from dessim.workload.model_sections import Table
from dessim.workload.operators import Towers
from dessim.workload.strategies import parse_strategy, spec_of

IDS_PER_FIELD = 1.7  # multi-hot: several ids per field, so that pairs of ids are split over ranks
SEED = 11
_MAX_VOCABULARY = 3000
_SAMPLES = 128  # at least, in a global batch
_SMALL_SAMPLES = 8  # the same for a small case
_DENSE = DenseOptimizer("Adam", {"lr": 1e-3, "weight_decay": 1e-5})

# Sizes of a small model. Five fields do not divide evenly by a likely number of ranks; layers have different widths,
# so that a mix-up of layers changes shapes.
_SMALL_FIELDS = 5
_SMALL_VOCABULARY = 200.0
_SMALL_IDS = IDS_PER_FIELD  # most ids a sample of a table; few enough for the cached rows of strategies.VARIANTS
_SMALL_EMBEDDING_WIDTH = 4
_SMALL_LAYER_WIDTHS = (6, 5, 4)
_SMALL_RANK = 2
_SMALL_LATENT = 3
_SMALL_TOWER_TABLES = 2
_SMALL_TOWER_OUTPUT = 3
_SMALL_DENSE_FEATURES = 3


@dataclass(frozen=True, slots=True)
class Case:
    """The settings of one certificate.

    placement   how DES places rows on ranks; None: as the model file says
    pooling     how the ids of a field are pooled; None: as the model file says
    small       shrink the model to sizes that train in milliseconds (`shrunk`)
    codecs      how values are encoded on the wire (dessim.workload.codecs); empty: not encoded
    tables      how each table is trained, where strategies are combined; `strategy` describes it (`Case.planned`)
    replicas    of the tables, where strategies are combined
    ids         a file of `dessim ids`, whose laws replace those of the model's tables; empty: the model's own
    sabotage    called in each rank before training; tests break the trainer with it
    """

    ranks: int
    steps: int
    model: str
    strategy: str
    device: str = "auto"
    pipeline: bool = True
    optimizer: str = "rowwise_adagrad"
    staleness: int = 4
    placement: str | None = None
    pooling: str | None = None
    small: bool = False
    codecs: str = ""
    tables: tuple[TablePlan, ...] = ()
    replicas: int = 1
    ids: str = ""
    sabotage: Callable[[], None] | None = None

    def planned(self, tables: Sequence[TablePlan], replicas: int = 1) -> Case:
        """The same case with a strategy for each table."""
        return replace(self, strategy=describe(tables, replicas), tables=tuple(tables), replicas=replicas)

    @property
    def owners_columns(self) -> tuple[tuple[int, ...], ...]:
        """For each table the columns of each owner, where it has several; empty if no table has."""
        columns = tuple(table.columns if table.is_split else () for table in self.tables)
        return columns if any(columns) else ()

    @property
    def splits_means(self) -> bool:
        """Whether an optimizer takes means over parts of rows, so that the split of tables changes the training."""
        return self.optimizer == RowAdagrad.name and bool(self.owners_columns)

    @property
    def is_synchronous(self) -> bool:
        """Whether all workers take a step together."""
        return bool(self.tables) or spec_of(self.strategy).synchronous

    def build(self, network: Network, comm: Comm, encoding: Encoding | None = None) -> Strategy:
        """The strategy on the case's optimizers. Raises UsageError."""
        return build(
            self.strategy,
            network,
            self.optimizers(),
            comm,
            encoding=encoding,
            tables=self.tables,
            replicas=self.replicas,
        )

    @property
    def label(self) -> str:
        """The case in words."""
        placement = f" by {self.placement}" if self.placement else ""
        pooling = f" pooled by {self.pooling}" if self.pooling else ""
        ranks = f"{self.ranks} rank{'s' * (self.ranks > 1)}"
        codecs = f", {self.codecs}" if self.codecs else ""
        ids = f" with {self.ids}" if self.ids else ""
        return f"{self.strategy}, {self.model}{ids}{placement}{pooling}, {self.optimizer}, {ranks}{codecs}"

    @property
    def codec_config(self) -> CodecConfig:
        """`codecs`, parsed. Raises UsageError."""
        return parse_codecs(self.codecs) if self.codecs else CodecConfig()

    def load(self) -> Model:
        """The model to train. Raises ModelError."""
        measured = model_with_ids(self.model, self.ids or None)
        model = measured.placed(self.placement).pooled(self.pooling).trained_by(self.optimizer)
        return shrunk(model) if self.small else model

    def optimizers(self) -> Optimizers:
        """The optimizers of rows and of dense parameters."""
        _, options = parse_strategy(self.strategy)
        dense = DenseOptimizer(SHAMPOO, {"lr": 1e-3}) if options.shampoo else _DENSE
        return Optimizers(ROW_OPTIMIZERS[self.optimizer](), dense, init_std=0.1)


def shrunk(model: Model) -> Model:
    """The same operators, pooling and placement over few fields and narrow layers.

    Of towers, each keeps a table or two. A model with a head is returned unchanged, because its module fixes the sizes.
    """
    if "head" in model.kinds:
        return model
    raw = model.model_dump()
    kept = _kept_fields(model)
    fields = len(kept)
    if model.tables:
        widths = sorted({model.widths[field] for field in kept})
        small = {width: 2 * (i + 1) for i, width in enumerate(widths)} if len(widths) > 1 else {}
        raw["tables"] = [_small(model.tables[field], small.get(model.widths[field])) for field in kept]
        raw["input"] = {"batch_per_worker": model.input.batch_per_worker}
    else:
        raw["input"] |= {
            "fields": fields,
            "ids_per_sample": model.input.ids_per_sample * fields / model.input.fields,
            "vocabulary": min(model.input.vocabulary, _SMALL_VOCABULARY),
        }
    width = min(model.embedding.width, _SMALL_EMBEDDING_WIDTH)
    raw["embedding"]["width"] = width
    if model.dense is not None:
        widths = (*_small_widths(model.dense.widths[:-1]), width)
        raw["dense"] = {"features": min(model.dense.features, _SMALL_DENSE_FEATURES), "widths": widths}
    for operator in raw["operators"]:
        _shrink_operator(operator, kept, model)
    return parse_model(raw, model.name)


def _kept_fields(model: Model) -> list[int]:
    """The fields of the small model: the first of the model, or of each of its towers."""
    towers = [tower.tables for o in model.operators if isinstance(o, Towers) for tower in o.towers]
    if not towers:
        return list(range(min(model.input.fields, _SMALL_FIELDS)))
    names = {table for tables in towers for table in tables[:_SMALL_TOWER_TABLES]}
    return [field for field, table in enumerate(model.tables) if table.name in names]


def _small(table: Table, width: int | None) -> dict[str, Any]:
    return table.model_dump() | {
        "rows": min(table.rows, _SMALL_VOCABULARY),
        "ids": min(table.ids, _SMALL_IDS),
        "width": width,
    }


def _small_widths(widths: Sequence[int]) -> list[int]:
    last = len(_SMALL_LAYER_WIDTHS) - 1
    return [min(width, _SMALL_LAYER_WIDTHS[min(i, last)]) for i, width in enumerate(widths)]


def _shrink_operator(operator: dict[str, Any], kept: Sequence[int], model: Model) -> None:
    for tower in operator.get("towers", ()):
        tower["tables"] = [model.tables[field].name for field in kept if model.tables[field].name in tower["tables"]]
        tower["widths"] = (*_small_widths(tower["widths"][:-1]), min(tower["widths"][-1], _SMALL_TOWER_OUTPUT))
    if operator.get("widths"):
        operator["widths"] = _small_widths(operator["widths"])
    for name, limit in (("rank", _SMALL_RANK), ("latent", _SMALL_LATENT)):
        if operator.get(name):
            operator[name] = min(operator[name], limit)
    if operator.get("alpha"):
        operator["alpha"] = operator["alpha"][: len(kept)]


def batches(case: Case, model: Model, comm: Comm) -> list[Batch]:
    """The global batch of each step. Its size is a multiple of the number of workers."""
    samples = -(-(_SMALL_SAMPLES if case.small else _SAMPLES) // comm.world_size) * comm.world_size
    vocabulary = min(model.input.vocabulary, _MAX_VOCABULARY)
    tables = tuple(table.model_copy(update={"rows": min(table.rows, _MAX_VOCABULARY)}) for table in model.tables)
    shape = (model.input.fields, IDS_PER_FIELD, vocabulary)
    data = Zipf(*shape, skew=1.05, seed=SEED, tables=tables, dense=model.dense_features)
    whole = (data.examples(samples, part=step).take(torch.arange(samples)) for step in range(case.steps))
    examples = [_with_empty_bags(batch, model.input.fields, step) for step, batch in enumerate(whole)]
    if (widths := widths_of(model, 0, "cpu")) is None:
        return examples
    return [replace(batch, ids=widths.keyed(batch.ids, batch.field)) for batch in examples]


def _with_empty_bags(batch: Batch, fields: int, step: int) -> Batch:
    """The batch without the ids of one in 11 bags in even steps, of two in three in odd steps.

    Operators over pairs of samples and fields have one method for few occupied pairs and one for many, on any number of
    ranks.
    """
    bag = batch.sample * fields + batch.field
    kept = bag % 3 == 0 if step % 2 else bag % 11 != 10
    return replace(batch, ids=batch.ids[kept], sample=batch.sample[kept], field=batch.field[kept])
