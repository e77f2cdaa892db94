"""Expression trees: the values of formulas (dessim.workload.formula), for numbers and for arrays.

A tree is made by Formula's operators or read from text by `tree_of`, which accepts arithmetic only. Both evaluations
apply the same operations in the same order. A node knows its text, and prints the brackets that it has.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import reduce
from typing import Any, ClassVar

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


class Binding(IntEnum):
    """How tightly an expression's outermost operation binds. An operand that binds too loosely is printed in brackets.

    Bindings are compared: an operand that must bind more tightly than `binding` needs `binding + 1` at least.
    """

    OPAQUE = 0  # in brackets wherever it is an operand: parsed text, negative numbers
    SUM = 1
    PRODUCT = 2
    POWER = 3
    ATOM = 4  # a symbol, a number, a call, or an expression in brackets


PLUS = " + "
MINUS = " - "
TIGHT_PLUS = "+"
_BINDINGS = {
    PLUS: Binding.SUM,
    TIGHT_PLUS: Binding.SUM,
    MINUS: Binding.SUM,
    "*": Binding.PRODUCT,
    "/": Binding.PRODUCT,
    "**": Binding.POWER,
}
"""How tightly each operation binds, by its sign as it is printed."""


# Each kind of node has its `text`, how it is printed, and its `binding`. `evaluate` returns its value; the argument
# `text` is the whole formula, for error messages.


@dataclass(frozen=True, slots=True)
class Number:
    """A number, printed as Python prints it."""

    value: int | float

    @property
    def text(self) -> str:
        return repr(self.value)

    @property
    def binding(self) -> Binding:
        return Binding.ATOM if self.value >= 0 else Binding.OPAQUE

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        return arithmetic.number(self.value)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named value."""

    name: str
    binding: ClassVar[Binding] = Binding.ATOM

    @property
    def text(self) -> str:
        return self.name

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        """Its value. Raises FormulaError, which names the formula `text`, where `values` lack it."""
        if self.name not in values:
            raise FormulaError(f"formula {text!r} needs {self.name!r}, which this trace or model does not give")
        return arithmetic.number(values[self.name])


@dataclass(frozen=True, slots=True)
class Negative:
    """The negative of an atom."""

    operand: Node
    text: str = field(init=False, compare=False)
    binding: ClassVar[Binding] = Binding.OPAQUE

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", f"-{self.operand.text}")

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        return -self.operand.evaluate(values, text, arithmetic)


@dataclass(frozen=True, slots=True)
class Chain:
    """Operations applied from left to right: `a + b - c`, `a*b/c`, or one power. All signs have the same binding."""

    first: Node
    rest: tuple[tuple[str, Node], ...]
    text: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        text = self.first.text + "".join(sign + operand.text for sign, operand in self.rest)
        object.__setattr__(self, "text", text)

    @property
    def binding(self) -> Binding:
        return _BINDINGS[self.rest[0][0]]

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
    text: str = field(init=False, compare=False)
    binding: ClassVar[Binding] = Binding.ATOM

    def __post_init__(self) -> None:
        arguments = ", ".join(argument.text for argument in self.arguments)
        object.__setattr__(self, "text", f"{self.function}({arguments})")

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        evaluated = [argument.evaluate(values, text, arithmetic) for argument in self.arguments]
        return arithmetic.number(arithmetic.functions[self.function](*evaluated))


@dataclass(frozen=True, slots=True)
class Brackets:
    """An expression in brackets."""

    inner: Node
    text: str = field(init=False, compare=False)
    binding: ClassVar[Binding] = Binding.ATOM

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", f"({self.inner.text})")

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        return self.inner.evaluate(values, text, arithmetic)


@dataclass(frozen=True, slots=True)
class Written:
    """An expression that was read from `text`, printed as it was written."""

    text: str
    inner: Node

    @property
    def binding(self) -> Binding:
        return Binding.ATOM if self.inner.binding is Binding.ATOM else Binding.OPAQUE

    def evaluate(self, values: Mapping[str, Any], text: str, arithmetic: _Arithmetic) -> Any:
        return self.inner.evaluate(values, text, arithmetic)


Node = Number | Symbol | Negative | Chain | Call | Brackets | Written


def operand_of(node: Node, least: int) -> Node:
    """`node`, in brackets if it binds more loosely than `least`."""
    return node if node.binding >= least else Brackets(node)


def joined(left: Node, sign: str, right: Node) -> Node:
    """`left sign right`. An operand that binds as loosely as the operation joins its chain, as it does in text."""
    binding = _BINDINGS[sign]
    # `a - (b + c)` and `a/(b*c)` differ from `a - b + c` and `a/b*c`.
    inverts = sign in (MINUS, "/")
    first, rest = _open_chain(operand_of(left, binding), binding)
    second, more = _open_chain(operand_of(right, binding + inverts), binding)
    return Chain(first, (*rest, (sign, second), *more))


def _open_chain(operand: Node, binding: Binding) -> tuple[Node, tuple[tuple[str, Node], ...]]:
    """The operations of a chain that another one continues; an operand in brackets is a single value."""
    if isinstance(operand, Chain) and operand.binding is binding:
        return operand.first, operand.rest
    return operand, ()


def names_in(node: Node) -> set[str]:
    """The symbols of an expression."""
    match node:
        case Symbol(name):
            return {name}
        case Negative(inner) | Brackets(inner) | Written(_, inner):
            return names_in(inner)
        case Chain(first, rest):
            return names_in(first).union(*(names_in(operand) for _, operand in rest))
        case Call(_, arguments):
            return set().union(*(names_in(argument) for argument in arguments))
    return set()


def renamed_node(node: Node, names: Mapping[str, str]) -> Node:
    """The same expression with other names for some of its symbols. What was read from text loses its spaces."""
    match node:
        case Symbol(name):
            return Symbol(names.get(name, name))
        case Negative(operand):
            return Negative(renamed_node(operand, names))
        case Chain(first, rest):
            return Chain(renamed_node(first, names), tuple((sign, renamed_node(part, names)) for sign, part in rest))
        case Call(function, arguments):
            return Call(function, tuple(renamed_node(argument, names) for argument in arguments))
        case Brackets(inner):
            return Brackets(renamed_node(inner, names))
        case Written(_, inner):
            return renamed_node(inner, names)
    return node


_SCALARS = _Arithmetic(
    float,
    {
        PLUS: operator.add,
        TIGHT_PLUS: operator.add,
        MINUS: operator.sub,
        "*": operator.mul,
        "/": operator.truediv,
        "**": operator.pow,
    },
    {"min": min, "max": max, "ceil": math.ceil, "floor": math.floor, "log2": math.log2},
)


def _array(value: Any) -> Array:
    return np.asarray(value, dtype=np.float64)


def _divided(first: Array, second: Array) -> Array:
    """The quotient. Raises ZeroDivisionError where Python's division does."""
    if not np.all(second):
        raise ZeroDivisionError("division by zero")
    return np.divide(first, second)


def _least(first: Array, second: Array, *others: Array) -> Array:
    return reduce(np.minimum, (first, second, *others))


def _greatest(first: Array, second: Array, *others: Array) -> Array:
    return reduce(np.maximum, (first, second, *others))


# numpy's powers and logarithms may differ from math's in the last bit, so these call Python's for each element.
_ARRAYS = _Arithmetic(
    _array,
    {
        PLUS: np.add,
        TIGHT_PLUS: np.add,
        MINUS: np.subtract,
        "*": np.multiply,
        "/": _divided,
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


_SIGNS: dict[type[ast.operator], str] = {ast.Add: PLUS, ast.Sub: MINUS, ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}


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
            return Negative(operand_of(tree_of(inner, text, depth + 1), Binding.ATOM))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SIGNS:
            sign = _SIGNS[type(op)]
            binding = _BINDINGS[sign]
            # The operations keep the order of the text: `a + (b + c)` adds b and c first.
            of_first = Binding.ATOM if binding is Binding.POWER else binding
            first = operand_of(tree_of(left, text, depth + 1), of_first)
            second = operand_of(tree_of(right, text, depth + 1), binding + 1)
            return Chain(first, ((sign, second),))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _SCALARS.functions and args:
            return Call(name, tuple(tree_of(argument, text, depth + 1) for argument in args))
    allowed = ", ".join(_SCALARS.functions)
    raise FormulaError(f"formula {text!r}: {ast.unparse(tree)!r} is not arithmetic; use + - * / ** and {allowed}")
