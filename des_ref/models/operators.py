"""The torch modules of the operators and poolings that a model file names."""

from __future__ import annotations

import torch

from des_ref.substitution.attention_pool import AttentionPool
from des_ref.substitution.base import Operator
from des_ref.substitution.bottom import Bottom
from des_ref.substitution.cin import Cin, CinByField
from des_ref.substitution.cross import Cross
from des_ref.substitution.cross_v2 import CrossV2, CrossV2ByField
from des_ref.substitution.dot import Dot
from des_ref.substitution.fm import Fm
from des_ref.substitution.fm_fields import FmFields
from des_ref.substitution.fvae import Fvae
from des_ref.substitution.head import Head
from des_ref.substitution.lr import Lr
from des_ref.substitution.max_pool import MaxPool
from des_ref.substitution.mlp import Mlp, MlpOverOperand
from des_ref.substitution.nfm import Nfm
from des_ref.substitution.operand import Operand
from des_ref.substitution.towers import Towers
from des_ref.substitution.whole_pool import WholeAttention, WholeMax, WholePool
from dessim.workload import operators as specs
from dessim.workload.model import Model


def build_operator(spec: specs.AnySpec, model: Model, generator: torch.Generator) -> Operator:
    """The module of one operator of `model`."""
    fields = model.input.fields
    vectors = fields + (model.dense is not None)  # of a sample, with the output of the bottom mlp
    width = model.widths[0]  # of all fields, where an operator reads it
    inputs = sum(model.widths) + model.bottom_width  # floats of all vectors
    match spec:
        case specs.Lr():
            return Lr()
        case specs.Fm():
            return Fm(width)
        case specs.Mlp():
            mlp = MlpOverOperand if model.needs_operand else Mlp
            return mlp(inputs, spec.widths, spec.dropout, generator)
        case specs.FmFields():
            return FmFields(width)
        case specs.Nfm():
            return Nfm(width, spec.widths, spec.dropout, generator)
        case specs.Cross():
            return Cross(inputs, spec.layers, generator)
        case specs.CrossV2():
            cross = CrossV2 if spec.needs_operand(model.by_field) else CrossV2ByField
            return cross(inputs, spec.layers, spec.rank, generator)
        case specs.Dot():
            reads = "all" if spec.kind == "inner" else "bottom" if model.dense is not None else "none"
            return Dot(vectors, width, spec.widths, dropout=spec.dropout, reads=reads, generator=generator)
        case specs.Cin():
            cin = Cin if spec.needs_operand(model.by_field) else CinByField
            return cin(vectors, spec.widths, generator)
        case specs.Fvae():
            return Fvae(fields, width, spec, generator)
        case specs.Towers():
            return Towers(spec, model.shape, generator)
        case specs.Head():
            widths = width if model.has_one_width else (*((model.bottom_width,) if model.dense else ()), *model.widths)
            return Head(spec.module, vectors, widths, spec.weights, generator)


def build_operand(model: Model, generator: torch.Generator) -> Operand | None:
    """The module that pools rows to the vectors of all fields; None if no operator needs them."""
    fields = model.input.fields
    width = model.widths[0]
    if not model.needs_operand:
        return None
    # Under field placement `build_pool` has already pooled by maximum or attention.
    match model.embedding.pooling if not model.by_field else "whole":
        case "max":
            return MaxPool(fields, width)
        case "attention":
            return AttentionPool(fields, width, generator)
    return Operand(fields, width, None if model.has_one_width else model.widths)


def build_bottom(model: Model, generator: torch.Generator) -> Bottom | None:
    """The module that turns dense features into one more vector; None if the model reads none."""
    return Bottom(model.dense.features, model.dense.widths, generator) if model.dense is not None else None


def build_pool(model: Model, generator: torch.Generator) -> WholePool | None:
    """The module that pools whole bags before any operator reads them; None if pooling is a sum or bags are spread."""
    match model.embedding.pooling if model.by_field else "":
        case "max":
            return WholeMax()
        case "attention":
            return WholeAttention(model.widths[0], generator)
    return None
