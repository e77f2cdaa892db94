"""Expression trees: the values of formulas (dessim.workload.formula), for numbers and for arrays.

A tree is made by Formula's operators or read from text by `tree_of`, which accepts arithmetic only. Both evaluations
apply the same operations in the same order.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dessim.errors import FormulaError

MAX_DEPTH = 50  # nested operations of text that is parsed

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Arithmetic:
    """How expressions are evaluated: what makes a value of a number, and the operations and functions on values."""

    number: Callable[[Any], Any]
    operations: Mapping[str, Callable[[Any, Any], Any]]
    functions: Mapping[str, Callable[..., Any]]


# `evaluate` of each kind of node returns its value; `text` is its formula, for error messages.


@dataclass(frozen=True, slots=True)
class Number:
    """A number, as it is written."""

    value: int | float

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        return arithmetic.number(self.value)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named value."""

    name: str

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        """Its value. Raises FormulaError, which names the formula `text`, where `values` lack it."""
        if self.name not in values:
            raise FormulaError(f"formula {text!r} needs {self.name!r}, which this trace or model does not give")
        return arithmetic.number(values[self.name])


@dataclass(frozen=True, slots=True)
class Negative:
    """The negative of an expression."""

    operand: Node

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        return -self.operand.evaluate(values, text, arithmetic)


@dataclass(frozen=True, slots=True)
class Chain:
    """Operations applied from left to right: `a + b - c`, `a*b/c`, or one power."""

    first: Node
    rest: tuple[tuple[str, Node], ...]

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        result = self.first.evaluate(values, text, arithmetic)
        for sign, operand in self.rest:
            result = arithmetic.operations[sign](result, operand.evaluate(values, text, arithmetic))
        return result


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of the functions of formulas."""

    function: str
    arguments: tuple[Node, ...]

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        evaluated = [argument.evaluate(values, text, arithmetic) for argument in self.arguments]
        return arithmetic.number(arithmetic.functions[self.function](*evaluated))


Node = Number | Symbol | Negative | Chain | Call


def names_in(node: Node) -> set[str]:
    """The symbols of an expression."""
    match node:
        case Symbol(name):
            return {name}
        case Negative(operand):
            return names_in(operand)
        case Chain(first, rest):
            return names_in(first).union(*(names_in(operand) for _, operand in rest))
        case Call(_, arguments):
            return set().union(*(names_in(argument) for argument in arguments))
    return set()


def renamed_node(node: Node, names: Mapping[str, str]) -> Node:
    """The same expression with other names for some of its symbols."""
    match node:
        case Symbol(name):
            return Symbol(names.get(name, name))
        case Negative(operand):
            return Negative(renamed_node(operand, names))
        case Chain(first, rest):
            return Chain(renamed_node(first, names), tuple((sign, renamed_node(part, names)) for sign, part in rest))
        case Call(function, arguments):
            return Call(function, tuple(renamed_node(argument, names) for argument in arguments))
    return node


_SCALARS = _Arithmetic(
    float,
    {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow},
    {"min": min, "max": max, "ceil": math.ceil, "floor": math.floor, "log2": math.log2},
)


def _array(value: Any) -> Array:
    return np.asarray(value, dtype=np.float64)


def _least(first: Array, second: Array, *others: Array) -> Array:
    return reduce(np.minimum, (first, second, *others))


def _greatest(first: Array, second: Array, *others: Array) -> Array:
    return reduce(np.maximum, (first, second, *others))


# numpy's powers and logarithms may differ from math's in the last bit, so these call Python's for each element.
_ARRAYS = _Arithmetic(
    _array,
    {
        "+": np.add,
        "-": np.subtract,
        "*": np.multiply,
        "/": np.divide,
        "**": np.vectorize(operator.pow, otypes=[np.float64]),
    },
    {
        "min": _least,
        "max": _greatest,
        "ceil": lambda x: np.ceil(x),  # numpy's own would take a second argument as the place for its result
        "floor": lambda x: np.floor(x),
        "log2": np.vectorize(math.log2, otypes=[np.float64]),
    },
)


def value_of(node: Node, values: Mapping[str, float], text: str) -> float:
    """The value of an expression; `text` is its formula, for error messages. Raises what Python's arithmetic raises."""
    value: float = node.evaluate(values, text, _SCALARS)
    return value


def array_value_of(node: Node, values: Mapping[str, float | Array], text: str) -> Array:
    """`value_of` elementwise, for arrays whose shapes broadcast."""
    return _array(node.evaluate(values, text, _ARRAYS))


_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}


def tree_of(tree: ast.expr, text: str, depth: int = 0) -> Node:
    """The expression that Python's own syntax tree of `text` states. Raises FormulaError unless it is arithmetic."""
    if depth > MAX_DEPTH:
        raise FormulaError(f"formula {text[:40]!r}... is nested deeper than {MAX_DEPTH}")
    match tree:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return Number(value)
        case ast.Name(id=name):
            return Symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return Negative(tree_of(inner, text, depth + 1))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SIGNS:
            first = tree_of(left, text, depth + 1)
            return Chain(first, ((_SIGNS[type(op)], tree_of(right, text, depth + 1)),))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _SCALARS.functions and args:
            return Call(name, tuple(tree_of(argument, text, depth + 1) for argument in args))
    allowed = ", ".join(_SCALARS.functions)
    raise FormulaError(f"formula {text!r}: {ast.unparse(tree)!r} is not arithmetic; use + - * / ** and {allowed}")
