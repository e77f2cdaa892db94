"""DeepCTR-Torch's DeepFM and DCN, an independent implementation, behind the interface that the certificate compares.

Three changes are made to them. Importing the package queries PyPI in a thread; that function is replaced. It imports
scikit-learn for scores that are not used here, which takes seconds; placeholders stand for them. Their output layer
lacks the bias that ours has in addition to the logit's; it is replaced by one with a bias.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn

from des_ref.certify.compare import State
from des_ref.data.batch import Batch
from des_ref.strategies.base import Optimizers
from dessim.workload.model import Model

_SCORES = dict.fromkeys(("accuracy_score", "log_loss", "mean_squared_error", "roc_auc_score"))
_REPLACED = {
    "deepctr_torch.utils": SimpleNamespace(check_version=lambda version: None),
    "sklearn": SimpleNamespace(),
    "sklearn.metrics": SimpleNamespace(**_SCORES),
}
with mock.patch.dict(sys.modules, _REPLACED):
    from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
    from deepctr_torch.models import DCN, DeepFM
    from deepctr_torch.models.basemodel import BaseModel

Read = Callable[[nn.Parameter], Tensor]  # the value or the gradient of a parameter


class DeepCtr:
    """The DeepCTR model that computes what `model` does, for ids `vocabulary` [V], sorted, of fields `fields` [V].

    Raises ValueError for combinations of operators that DeepCTR has no model for.
    """

    def __init__(self, model: Model, vocabulary: Tensor, fields: Tensor, longest: int) -> None:
        self._vocabulary, self._longest = vocabulary, longest
        self._by_field = torch.argsort(fields, stable=True)
        self._sizes = torch.bincount(fields, minlength=model.input.fields).tolist()
        # Number of an id among those of its field; 0 is DeepCTR's padding.
        self._number = torch.empty_like(fields)
        self._number[self._by_field] = torch.cat([torch.arange(1, n + 1) for n in self._sizes])
        self.net = _build(model, self._sizes, longest).double()

    def views(self, read: Read) -> dict[str, list[Tensor]]:
        """By our parameter names, the parts to concatenate along the first dimension; rows are sorted by field."""
        net = self.net
        parts = {"v": [read(table.weight)[1:] for table in net.embedding_dict.values()]}
        if len(net.linear_model.embedding_dict):
            parts["w"] = [read(table.weight)[1:] for table in net.linear_model.embedding_dict.values()]
        parts["bias"] = [read(net.out.bias)]
        if not hasattr(net, "dnn"):
            return parts
        first, *rest = net.dnn.linears
        out = read(net.dnn_linear.weight)
        if isinstance(net, DCN):
            x_0 = net.crossnet.kernels.shape[1]
            parts["cross.w"] = [read(net.crossnet.kernels)[:, :, 0], out[:, :x_0]]
            parts["cross.b"] = [read(net.crossnet.bias)[:, :, 0]]
            out = out[:, x_0:]
        layers = [read(first.bias), *(read(p) for layer in rest for p in (layer.weight, layer.bias))]
        layers += [out, read(net.dnn_linear.bias)]
        return parts | {"mlp.w1": [read(first.weight)]} | {f"mlp.tower.layers.{i}": [p] for i, p in enumerate(layers)}

    def read(self, names: Sequence[str], read: Read) -> dict[str, Tensor]:
        """`w` and `v` over the vocabulary, and `dense.i` for the i-th of `names`."""
        views = {name: torch.cat(parts).clone() for name, parts in self.views(read).items()}
        rows = {name: torch.empty_like(views[name]) for name in ("w", "v") if name in views}
        for name, values in rows.items():
            values[self._by_field] = views[name]
        shapes = {"bias": ()}
        return rows | {f"dense.{i}": views[n].view(shapes.get(n, views[n].shape)) for i, n in enumerate(names)}

    def write(self, names: Sequence[str], values: Mapping[str, Tensor]) -> None:
        """Set the parameters from values as `read` returns them."""
        ours = {name: values[f"dense.{i}"] for i, name in enumerate(names)}
        ours |= {name: values[name][self._by_field] for name in ("w", "v") if name in values}
        with torch.no_grad():
            for name, parts in self.views(lambda p: p.data).items():
                whole = ours.pop(name).reshape(-1, *parts[0].shape[1:])
                for part, value in zip(parts, whole.split([len(p) for p in parts]), strict=True):
                    part.copy_(value)
        assert not ours, f"DeepCTR has no {', '.join(ours)}"

    def probabilities(self, batch: Batch) -> Tensor:
        """[B]: predicted click probabilities."""
        fields = len(self._sizes)
        bag = batch.sample * fields + batch.field
        order = torch.argsort(bag, stable=True)
        bag, number = bag[order], self._number[torch.searchsorted(self._vocabulary, batch.ids[order])]
        within = torch.arange(len(bag)) - torch.searchsorted(bag, bag)
        x = torch.zeros(len(batch) * fields, self._longest, dtype=torch.float64)
        x[bag, within] = number.double()
        return self.net(x.view(len(batch), -1))[:, 0]

    def train(self, names: Sequence[str], optimizers: Optimizers, batches: Sequence[Batch]) -> Iterator[State]:
        """Loss, gradients and parameters after each step; rows by torch.optim.Adagrad over whole tables."""
        rows = {p for name in ("w", "v") for p in self._tables(name)}
        dense = [p for p in self.net.parameters() if p not in rows]
        steps = [torch.optim.Adagrad([p for p in self.net.parameters() if p in rows], optimizers.rows.rate)]
        steps.append(optimizers.dense(dense))
        for batch in batches:
            self.net.zero_grad()
            loss = nn.functional.binary_cross_entropy(self.probabilities(batch), batch.labels.double())
            loss.backward()
            for step in steps:
                step.step()
            yield State(float(loss.detach()), self.read(names, lambda p: p.grad), self.read(names, lambda p: p.data))

    def _tables(self, name: str) -> list[nn.Parameter]:
        modules = {"v": self.net.embedding_dict, "w": self.net.linear_model.embedding_dict}
        return [table.weight for table in modules[name].values()]


def _build(model: Model, sizes: list[int], longest: int) -> BaseModel:
    width = model.embedding.width
    columns = [SparseFeat(f"f{f}", n + 1, width) for f, n in enumerate(sizes)]
    if longest > 1:
        columns = [VarLenSparseFeat(c, longest, model.embedding.pooling) for c in columns]
    by_kind = {spec.kind: spec for spec in model.operators}
    hidden = by_kind["mlp"].widths if "mlp" in by_kind else ()
    linear = columns if "lr" in by_kind else []
    if by_kind.keys() == {"cross", "mlp"}:
        net = DCN(linear, columns, by_kind["cross"].layers, "vector", hidden)
    elif by_kind.keys() - {"mlp"} in ({"lr", "fm"}, {"lr", "fm_fields"}):
        net = DeepFM(linear, columns, dnn_hidden_units=hidden)
    else:
        raise ValueError(f"no DeepCTR model of {', '.join(by_kind)}")
    if hidden:
        net.dnn_linear = nn.Linear(net.dnn_linear.in_features, 1)
    return net
