"""A user-defined head: any torch module above the pooled vectors of all fields.

    [[operators]]
    kind = "head"
    module = "my_package.heads:make"   # imported and *executed*, so the programs need --allow-code
    weights = 12_345                   # for the simulator, which never runs the module
    multiply_adds = 12_000

`make(fields, width)` returns an nn.Module that maps [b, F, D] to logits [b]. Where vectors differ in width, `width` is
the tuple of their widths, and the module maps [b, sum of widths] to logits. With dense features the output of the
bottom mlp counts as one more field, the first. The module runs on every worker and must compute the same function
everywhere. Dropout would drop different units on each worker, and batch normalisation would see only the worker's own
samples, so both are refused. Initial values are drawn from the run's seed.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from des_ref.substitution.base import Operator, Plain
from dessim.errors import UsageError
from dessim.workload.model import Model


class Head(Operator):
    """The module that `name` makes. Raises UsageError if it is unsuitable or has another number of `weights`."""

    def __init__(
        self, name: str, fields: int, width: int | tuple[int, ...], weights: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(generator.initial_seed())
            self.module = _make(name, fields, width).double()
        _check(self.module, name, fields, width, weights)

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        return self.module(sums)

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """The module on pooled vectors. It is its own definition; the comparison checks what lies below it."""
        names = {name.removeprefix("module."): w for name, w in weights.items()}
        return torch.func.functional_call(copy.deepcopy(self.module), names, (plain.operand(),))


def require_allowed(model: Model, allowed: bool) -> None:
    """Raise UsageError if `model` names a module of Python and its user has not `allowed` to import and run it."""
    named = [operator.module for operator in model.operators if operator.kind == "head"]
    if named and not allowed:
        raise UsageError(f"model {model.name} imports and runs {named[0]}: add --allow-code if you trust that code")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _make(name: str, fields: int, width: int | tuple[int, ...]) -> nn.Module:
    module, _, factory = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"head {name!r}: {error}; name an importable function as package.module:function") from None
    except Exception as error:
        raise UsageError(f"head {name!r}: its module raises {_said(error)}") from None
    try:
        made = make(fields, width)
    except Exception as error:
        raise UsageError(f"head {name!r} raises {_said(error)}") from None
    if not isinstance(made, nn.Module):
        raise UsageError(f"head {name!r} returned {type(made).__name__}; it must return a torch.nn.Module")
    return made


def _check(module: nn.Module, name: str, fields: int, width: int | tuple[int, ...], weights: int) -> None:
    for part in module.modules():
        if isinstance(part, _BatchNorm) or (isinstance(part, _DropoutNd) and part.p > 0):
            kind = type(part).__name__
            raise UsageError(f"head {name!r} has a {kind}, which does not do the same on every worker; leave it out")
    has = sum(p.numel() for p in module.parameters())
    if has != weights:
        raise UsageError(f"head {name!r} has {has} weights, the model file says {weights}: write weights = {has}")
    given = [2, fields, width] if isinstance(width, int) else [2, sum(width)]
    try:
        with torch.no_grad():
            shape = tuple(module(torch.zeros(given, dtype=torch.float64)).shape)
    except Exception as error:
        raise UsageError(f"head {name!r} raises {_said(error)} for vectors {given}") from None
    if shape != (2,):
        raise UsageError(f"head {name!r} turns {given} into {list(shape)}; it must give logits [2]")
