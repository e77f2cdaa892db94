"""The certificate's reference: the same training on one process, written independently of the distributed path.

Rows are dense matrices over a known vocabulary instead of hash tables. Operators are the `reference` methods of
substitution/*. Autograd runs through the whole model at once. Optimizers are written as loops over rows and parameters
(of the dense ones only Adam; the others of torch.optim run as they are, on the reference's own weights and gradients).
Dropout masks are drawn by separate code (reference_draws.py). The starting values and the parameter shapes of the
dense tail are taken from the trainer's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from des_ref.data.batch import Batch
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.reference_draws import plain_draws
from des_ref.reference_optim import ROW_STEPS, Memory
from des_ref.strategies.base import Optimizers
from des_ref.substitution.base import Plain
from des_ref.substitution.layers import plain_hidden_layers

# Defaults of torch.optim.Adam.
_BETA_1 = 0.9
_BETA_2 = 0.999
_ADAM_EPS = 1e-8


@dataclass(frozen=True, slots=True)
class ReferenceStep:
    """A step's loss, and gradients by parameter name: `w` [V, 1], `v` [V, D], `dense.0` ..."""

    loss: float
    grads: dict[str, Tensor]


class Reference:
    """Training on one process over `vocabulary`, sorted ids [V]. `parameters` holds the current values, by name.

    `columns`: for each id, the number of columns at each owner of its row, which has its own optimizer state; empty
    where every row has one owner.
    """

    def __init__(
        self, network: Network, optimizers: Optimizers, vocabulary: Tensor, columns: Sequence[Sequence[int]] = ()
    ) -> None:
        self._network = network
        self._optimizers = optimizers
        self._vocabulary = vocabulary
        table = network.new_table(optimizers.rows, optimizers.init_std)
        rows = table.find_or_insert(vocabulary)
        self.parameters = table.values(vocabulary, rows, tuple(network.row_widths))
        self._widths = network.embedding_widths(vocabulary)
        dense = [p.detach().clone() for p in network.dense_parameters]
        self.parameters |= {f"dense.{i}": p for i, p in enumerate(dense)}
        self._columns = columns
        self._row_memory: dict[tuple[str, int, int], Memory] = {}
        self._moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.parameters.items()}
        self._torch_optimizer = None if _is_plain_adam(optimizers.dense) else optimizers.dense(dense)
        self._step = 0

    def step(self, batch: Batch) -> ReferenceStep:
        """Train on a global batch."""
        step = self.gradients(batch, self.parameters, self._step, range(len(batch)))
        self.apply(batch, step.grads)
        return step

    def gradients(
        self, batch: Batch, parameters: Mapping[str, Tensor], step: int, places: Sequence[int]
    ) -> ReferenceStep:
        """Loss and gradients of a batch at some `parameters`; random draws are those of `places` [b] in `step`."""
        leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        loss = self._loss(leaves, batch, plain_draws(self._network.model, self._network.seed, step, places))
        loss.backward()
        return ReferenceStep(float(loss.detach()), {name: leaf.grad for name, leaf in leaves.items()})

    def apply(self, batch: Batch, grads: Mapping[str, Tensor]) -> None:
        """Step the optimizers of the dense parameters, and of the rows that occur in `batch`."""
        self._step += 1
        touched = torch.unique(torch.searchsorted(self._vocabulary, batch.ids)).tolist()
        for name, grad in grads.items():
            if name in self._network.row_widths:
                self._update_rows(name, touched, grad)
            elif self._torch_optimizer is None:
                self._adam(name, grad)
            else:
                self.parameters[name].grad = grad
        if self._torch_optimizer is not None:
            self._torch_optimizer.step()

    def _loss(self, p: dict[str, Tensor], batch: Batch, masks: list[Tensor] | None) -> Tensor:
        network = self._network
        samples = len(batch)
        index = torch.searchsorted(self._vocabulary, batch.ids)
        dense = {name: p[f"dense.{i}"] for i, name in enumerate(network.dense_names)}
        pooling = network.model.embedding.pooling, dense.get("pooling.a")
        where = index, batch.sample, batch.field, samples, network.fields
        layers = [w for name, w in dense.items() if name.startswith("bottom.")]
        bottom = plain_hidden_layers(batch.dense.to(network.dtype), layers) if batch.dense is not None else None
        plain = Plain(p.get("w"), p.get("v"), *where, *pooling, o=p.get("o"), bottom=bottom, widths=network.uneven)
        logits = dense["bias"].expand(samples) if "bias" in dense else torch.zeros(samples, dtype=network.dtype)
        for kind, operator in network.operators.items():
            prefix = f"{kind}."
            weights = {name.removeprefix(prefix): w for name, w in dense.items() if name.startswith(prefix)}
            drop = [masks.pop(0) for _ in operator.hidden] if masks is not None else None
            logits = logits + operator.reference(plain, weights, drop)
        if network.model.output is not None:
            return logits.mean()  # a model with its own objective has one operator, and that returns losses
        y = batch.labels.to(logits.dtype)
        # -log sigmoid of the margin, written out: y x - log(1 + e^x), stable on both sides.
        return (torch.logaddexp(torch.zeros_like(logits), logits) - y * logits).mean()

    def _update_rows(self, name: str, touched: list[int], grad: Tensor) -> None:
        settings = self._optimizers.rows
        values = self.parameters[name].numpy()
        grads = grad.numpy()
        step = ROW_STEPS[settings.name]
        for r in touched:
            for own in self._parts(name, r):
                memory = self._row_memory.setdefault((name, r, own.start), {})
                values[r, own] = step(settings, memory, values[r, own], grads[r, own])

    def _parts(self, name: str, row: int) -> list[slice]:
        """The columns of a row that each of its owners has."""
        if name != "v":
            return [slice(0, self.parameters[name].shape[1])]
        widths = (self._columns[row] if self._columns else ()) or (self._widths[row],)
        return [slice(end - width, end) for width, end in zip(widths, accumulate(widths), strict=True)]

    def _adam(self, name: str, grad: Tensor) -> None:
        p = self.parameters[name]
        settings = self._optimizers.dense.settings
        grad = grad + settings.get("weight_decay", 0.0) * p
        first, second = self._moments[name]
        first.mul_(_BETA_1).add_((1 - _BETA_1) * grad)
        second.mul_(_BETA_2).add_((1 - _BETA_2) * grad * grad)
        mean = first / (1 - _BETA_1**self._step)
        square = second / (1 - _BETA_2**self._step)
        p -= settings.get("lr", 1e-3) * mean / (square.sqrt() + _ADAM_EPS)


def _is_plain_adam(dense: DenseOptimizer) -> bool:
    return dense.name == "Adam" and set(dense.settings) <= {"lr", "weight_decay"}
