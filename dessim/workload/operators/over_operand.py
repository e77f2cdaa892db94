"""Operators that read the pooled vectors of all fields together, so that only lookup and pooling are substituted."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dessim.workload.formula import ZERO
from dessim.workload.operators.base import Costs, Dense, Dropout, Layer, OverOperand, Shape, Widths, perceptron


class Dot(OverOperand):
    """The inner products of all pairs of fields, and an mlp over them (dot: DLRM) or over them and the vectors (inner:
    PNN)."""

    kind: Literal["dot", "inner"]
    widths: Widths
    dropout: Dropout = 0.0

    def costs(self, shape: Shape) -> Costs:
        products = shape.vectors * (shape.vectors - 1) // 2
        # DLRM's mlp also reads the output of the bottom mlp.
        vectors = shape.pooled if self.kind == "inner" else shape.bottom
        inputs = products + vectors
        square = shape.vectors**2
        units = square + products + (inputs if vectors else 0)
        pairs = Layer(shape.width, shape.vectors, rows=shape.vectors, apart=True)
        gram = Dense(square * shape.width, units=units, layers=(pairs,))
        return Costs(self.kind, wire=ZERO, dense=gram + perceptron(inputs, self.widths))


class Head(OverOperand):
    """A user's own torch module above the operand. The model file states its costs, since the simulator never runs it.

    `module` names a function, package.module:function. `activations`: floats a sample that its backward needs.
    """

    kind: Literal["head"]
    any_widths: ClassVar[bool] = True
    module: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")]
    weights: Annotated[int, Field(ge=0)]
    multiply_adds: Annotated[int, Field(ge=0)]
    activations: Annotated[int, Field(ge=0)] = 0

    def costs(self, shape: Shape) -> Costs:
        return Costs("head", wire=ZERO, dense=Dense(self.multiply_adds, self.weights, self.activations))
