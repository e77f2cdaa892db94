"""Write the model file of a TorchRec model:

    python -m des_ref.from_torchrec mypackage.models:make_dlrm -o model.toml

MODULE:FACTORY names a function without arguments that returns a torch module. It is called on torch's meta device, so
that tables of any size take no memory. Tables, widths and pooling come from its EmbeddingBagCollections. The layers of
DLRM and DLRM_DCN become operators; the rest of any other model becomes an operator "head" with its weights and
multiply-adds. How many ids a sample has and how they repeat is not part of a model: measure it, or state it by hand.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from des_ref.cli import Parser, output_file, run
from dessim.errors import UsageError
from dessim.files import write_text
from dessim.processes import leave
from dessim.workload.model import parse_model

_POOLINGS = {"SUM": "sum", "MEAN": "mean"}


@dataclass(frozen=True, slots=True)
class Table:
    """One table of an EmbeddingBagCollection."""

    name: str
    rows: int
    width: int
    pooling: str


def load_factory(text: str) -> Callable[[], nn.Module]:
    """The function that MODULE:FACTORY names. Raises UsageError."""
    module, _, name = text.partition(":")
    if not module or not name:
        raise UsageError(f"{text!r}: write MODULE:FACTORY, such as mypackage.models:make_dlrm")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UsageError(f"{module} cannot be imported: {error}") from None
    if not callable(factory):
        raise UsageError(f"{module} has no function {name!r}")
    return factory  # type: ignore[no-any-return]


def tables_of(module: nn.Module) -> list[Table]:
    """The tables of all EmbeddingBagCollections in `module`, in their order. Raises UsageError."""
    tables: list[Table] = []
    for collection in _collections(module):
        for config in collection.embedding_bag_configs():
            if len(config.feature_names) != 1:
                raise UsageError(
                    f"table {config.name!r} serves {len(config.feature_names)} features; dessim's tables serve one each"
                )
            tables.append(
                Table(config.name, config.num_embeddings, config.embedding_dim, _POOLINGS[config.pooling.name])
            )
    if not tables:
        raise UsageError("the module has no EmbeddingBagCollection")
    return tables


def _collections(module: nn.Module) -> Iterator[Any]:
    return (part for part in module.modules() if hasattr(part, "embedding_bag_configs"))


def linear_widths(module: nn.Module) -> list[tuple[int, int]]:
    """(inputs, outputs) of the linear layers of `module`, in their order."""
    return [(part.in_features, part.out_features) for part in module.modules() if isinstance(part, nn.Linear)]


def model_of(module: nn.Module, name: str, factory: str) -> dict[str, Any]:
    """The model as the TOML table of a version 2 model file. Raises UsageError."""
    tables = tables_of(module)
    architecture = next((part for part in module.modules() if hasattr(part, "inter_arch")), None)
    raw: dict[str, Any] = {
        "schema_version": 2,
        "name": name,
        "input": {},
        "embedding": {"width": tables[0].width, "pooling": tables[0].pooling},
        "tables": [{"name": t.name, "rows": t.rows, "width": t.width, "pooling": t.pooling} for t in tables],
    }
    if architecture is None:
        return raw | {"operators": [_head(module, factory)]}
    bottom = linear_widths(architecture.dense_arch)
    top = [outputs for _, outputs in linear_widths(architecture.over_arch)][:-1]
    raw["dense"] = {"features": bottom[0][0], "widths": [outputs for _, outputs in bottom]}
    cross = getattr(architecture.inter_arch, "crossnet", None)
    if cross is None:
        return raw | {"operators": [{"kind": "dot", "widths": top}]}
    # Each layer of a low-rank cross network has two matrices, a full one has one.
    matrices = [parameter for parameter in cross.parameters() if parameter.dim() == 2 and 1 not in parameter.shape]
    rank = {"rank": min(matrices[0].shape)} if matrices[0].shape[0] != matrices[0].shape[1] else {}
    layers = len(matrices) // (2 if rank else 1)
    return raw | {
        "operators": [
            {"kind": "cross_v2", "layers": layers, "strategy": "mesh"} | rank,
            {"kind": "mlp", "widths": top, "strategy": "mesh"},
        ]
    }


def _head(module: nn.Module, factory: str) -> dict[str, Any]:
    """Everything but the tables as one operator of a user's own."""
    embedded = {id(parameter) for part in _collections(module) for parameter in part.parameters()}
    weights = sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in embedded)
    multiply_adds = sum(inputs * outputs for inputs, outputs in linear_widths(module))
    activations = sum(outputs for _, outputs in linear_widths(module))
    costs = {"weights": weights, "multiply_adds": multiply_adds, "activations": activations}
    return {"kind": "head", "module": factory} | costs


def to_toml(raw: dict[str, Any], source: str) -> str:
    """The text of the model file."""
    lines = [
        f"# Written by des_ref.from_torchrec from {source}.",
        "# `ids` (mean ids a sample), `skew` and `offset` of the tables are 1, 1.05 and 0 by default: state your own.",
        f"schema_version = {raw['schema_version']}",
        f"name = {json.dumps(raw['name'])}",
        "",
        "[input]",
        "batch_per_worker = 4096",
    ]
    for section in ("dense", "embedding"):
        if section in raw:
            lines += ["", f"[{section}]", *_keys(raw[section])]
    for section in ("tables", "operators"):
        for entry in raw[section]:
            lines += ["", f"[[{section}]]", *_keys(entry)]
    return "\n".join(lines) + "\n"


def _keys(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="des_ref.from_torchrec", description="Write the model file of a TorchRec model.")
    p.add_argument("factory", metavar="MODULE:FACTORY", help="a function without arguments that returns a torch module")
    p.add_argument("--name", help="name of the model (default: the factory's)")
    p.add_argument("-o", "--out", type=output_file, metavar="FILE", help="model file to write (default: stdout)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    factory = load_factory(args.factory)
    with torch.device("meta"):
        module = factory()
    if not isinstance(module, nn.Module):
        raise UsageError(f"{args.factory} returned a {type(module).__name__}, not a torch module")
    raw = model_of(module, args.name or args.factory.partition(":")[2], args.factory)
    parse_model(raw, args.factory)
    text = to_toml(raw, args.factory)
    if args.out is None:
        sys.stdout.write(text)
    else:
        write_text(args.out, text)
    return 0


if __name__ == "__main__":
    leave(run("des_ref.from_torchrec", main))
