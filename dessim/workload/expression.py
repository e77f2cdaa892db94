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
class Number:
    """A number, as it is written."""

    value: int | float


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named value."""

    name: str


@dataclass(frozen=True, slots=True)
class Negative:
    """The negative of an expression."""

    operand: Node


@dataclass(frozen=True, slots=True)
class Chain:
    """Operations applied from left to right: `a + b - c`, `a*b/c`, or one power."""

    first: Node
    rest: tuple[tuple[str, Node], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of the functions of formulas."""

    function: str
    arguments: tuple[Node, ...]


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


_OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "ceil": math.ceil,
    "floor": math.floor,
    "log2": math.log2,
}


def _value(name: str, values: Mapping[str, Any], text: str) -> Any:
    if name not in values:
        raise FormulaError(f"formula {text!r} needs {name!r}, which this trace or model does not give")
    return values[name]


def value_of(node: Node, values: Mapping[str, float], text: str) -> float:
    """The value of an expression; `text` is its formula, for error messages. Raises what Python's arithmetic raises."""
    match node:
        case Number(value):
            return float(value)
        case Symbol(name):
            return float(_value(name, values, text))
        case Negative(operand):
            return -value_of(operand, values, text)
        case Chain(first, rest):
            result = value_of(first, values, text)
            for sign, operand in rest:
                result = _OPERATIONS[sign](result, value_of(operand, values, text))
            return result
        case Call(function, arguments):
            return float(_FUNCTIONS[function](*(value_of(argument, values, text) for argument in arguments)))


def _least(first: Array, second: Array, *others: Array) -> Array:
    return reduce(np.minimum, (first, second, *others))


def _greatest(first: Array, second: Array, *others: Array) -> Array:
    return reduce(np.maximum, (first, second, *others))


# numpy's powers and logarithms may differ from math's in the last bit, so these call Python's for each element.
_ARRAY_OPERATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "**": np.vectorize(operator.pow, otypes=[np.float64]),
}
_ARRAY_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "min": _least,
    "max": _greatest,
    "ceil": lambda x: np.ceil(x),  # numpy's own would take a second argument as the place for its result
    "floor": lambda x: np.floor(x),
    "log2": np.vectorize(math.log2, otypes=[np.float64]),
}


def array_value_of(node: Node, values: Mapping[str, float | Array], text: str) -> Array:
    """`value_of` elementwise, for arrays whose shapes broadcast."""
    match node:
        case Number(value):
            return np.asarray(float(value))
        case Symbol(name):
            return np.asarray(_value(name, values, text), dtype=np.float64)
        case Negative(operand):
            return -array_value_of(operand, values, text)
        case Chain(first, rest):
            result = array_value_of(first, values, text)
            for sign, operand in rest:
                result = _ARRAY_OPERATIONS[sign](result, array_value_of(operand, values, text))
            return result
        case Call(function, arguments):
            return _ARRAY_FUNCTIONS[function](*(array_value_of(argument, values, text) for argument in arguments))


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
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
            return Call(name, tuple(tree_of(argument, text, depth + 1) for argument in args))
    allowed = ", ".join(_FUNCTIONS)
    raise FormulaError(f"formula {text!r}: {ast.unparse(tree)!r} is not arithmetic; use + - * / ** and {allowed}")
