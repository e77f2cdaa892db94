"""Size formulas such as `B*K*s` and `(B/N)*m*k`: arithmetic on named symbols.

A formula gives the bytes (or FLOPs) of an op as a function of the job, so that a size recorded on 4 ranks can be
restated for 4,096. The trainer, the certificate and the simulator evaluate the same formulas.

Plans build formulas from symbols and numbers with Python's operators, and `str` prints them:

    >>> B, N, m, k = symbol("B"), symbol("N"), symbol("m"), symbol("k")
    >>> str(group(B / N) * m * k)
    '(B/N)*m*k'

Operators join operands as they are written: `a + (b + c)` prints `a + b + c` and adds from left to right. Brackets
appear where precedence requires them, and around every `group`, which also fixes the order of operations. The text and
the value therefore always agree, to the last bit.

Trace files hold formulas as text, which `parse` reads. That text is untrusted. The grammar has numbers, symbols,
`+ - * / **`, parentheses and `min max ceil floor log2`. Nothing is ever executed, and length, depth and value are
bounded.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from dessim.errors import FormulaError
from dessim.workload.expression import (
    MINUS,
    PLUS,
    TIGHT_PLUS,
    Array,
    Binding,
    Brackets,
    Call,
    Chain,
    Negative,
    Node,
    Number,
    Symbol,
    Written,
    array_value_of,
    joined,
    names_in,
    operand_of,
    renamed_node,
    tree_of,
    value_of,
)

MAX_LENGTH = 1000  # characters of text that is parsed
MAX_VALUE = 1e30  # a larger result is an error


@dataclass(frozen=True, slots=True)
class Formula:
    """An immutable expression. Two formulas are equal when they print the same text. Only the number 0 is falsy."""

    text: str = field(init=False)
    _node: Node = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self._node.text)

    def __str__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        node = self._node
        while isinstance(node, Brackets | Written):
            node = node.inner
        return not (isinstance(node, Number) and node.value == 0)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names that an evaluation needs, sorted."""
        return tuple(sorted(_names_in(self)))

    def __add__(self, other: Formula | float) -> Formula:
        return Formula(joined(self._node, PLUS, _node_of(other)))

    def __radd__(self, other: float) -> Formula:
        return number(other) + self

    def __sub__(self, other: Formula | float) -> Formula:
        return Formula(joined(self._node, MINUS, _node_of(other)))

    def __rsub__(self, other: float) -> Formula:
        return number(other) - self

    def __mul__(self, other: Formula | float) -> Formula:
        return Formula(joined(self._node, "*", _node_of(other)))

    def __rmul__(self, other: float) -> Formula:
        return number(other) * self

    def __truediv__(self, other: Formula | float) -> Formula:
        return Formula(joined(self._node, "/", _node_of(other)))

    def __rtruediv__(self, other: float) -> Formula:
        return number(other) / self

    def __pow__(self, other: Formula | float) -> Formula:
        base = operand_of(self._node, Binding.ATOM)
        exponent = operand_of(_node_of(other), Binding.ATOM)
        return Formula(Chain(base, (("**", exponent),)))

    def __neg__(self) -> Formula:
        return Formula(Negative(operand_of(self._node, Binding.ATOM)))

    def renamed(self, names: Mapping[str, str]) -> Formula:
        """The same formula with other names for some of its symbols."""
        return Formula(renamed_node(self._node, names)) if _names_in(self).intersection(names) else self

    def evaluate(self, values: Mapping[str, float]) -> float:
        """The number for these symbol values. Raises FormulaError if one is missing or the result is not finite."""
        try:
            result = value_of(self._node, values, self.text)
        except (ZeroDivisionError, OverflowError, ValueError, TypeError) as error:
            raise FormulaError(f"formula {self.text!r} does not evaluate: {error}") from None
        if isinstance(result, complex) or not math.isfinite(result) or abs(result) > MAX_VALUE:
            raise FormulaError(f"formula {self.text!r} gives {result}, not a usable number")
        return result

    def evaluate_arrays(self, values: Mapping[str, float | Array]) -> Array:
        """Elementwise `evaluate` of arrays whose shapes broadcast, equal to it in every bit.

        Raises FormulaError if a symbol is missing or any element of the result is not finite.
        """
        try:
            with np.errstate(all="ignore"):
                result = array_value_of(self._node, values, self.text)
        except (ZeroDivisionError, OverflowError, ValueError, TypeError) as error:
            raise FormulaError(f"formula {self.text!r} does not evaluate: {error}") from None
        unusable = ~(np.abs(result) <= MAX_VALUE)
        if unusable.any():
            raise FormulaError(f"formula {self.text!r} gives {result[unusable][0]}, not a usable number")
        return result


def symbol(name: str) -> Formula:
    """The formula that is one symbol."""
    return Formula(Symbol(name))


def number(value: int | float) -> Formula:
    """The formula that is one number, printed as Python prints it."""
    value = value if isinstance(value, int) else float(value)  # numpy's floats print differently
    return Formula(Number(value))


ZERO = number(0)
ONE = number(1)


def group(inner: Formula | float) -> Formula:
    """`inner` in brackets: `group(B / N) * m` prints `(B/N)*m`. Brackets are not doubled."""
    node = _node_of(inner)
    return Formula(node if isinstance(node, Brackets) else Brackets(node))


def as_factor(inner: Formula) -> Formula:
    """`inner` in brackets unless it is a symbol, a number, a call or in brackets already."""
    return Formula(operand_of(inner._node, Binding.ATOM))


def tight_sum(left: Formula | float, right: Formula | float) -> Formula:
    """A sum in brackets without spaces: `tight_sum(D, 1)` prints `(D+1)`."""
    return Formula(Brackets(joined(_node_of(left), TIGHT_PLUS, _node_of(right))))


def add_up(terms: Iterable[Formula]) -> Formula:
    """The sum of terms from left to right; ZERO of none."""
    terms = tuple(terms)
    return reduce(operator.add, terms) if terms else ZERO


def product_of(*factors: Formula) -> Formula:
    """The product of factors from left to right, without those that are 1; ONE of none. Sums and products among the
    factors keep their own brackets."""
    kept = [as_factor(factor) for factor in factors if factor != ONE]
    return reduce(operator.mul, kept) if kept else ONE


def max_of(*arguments: Formula | float) -> Formula:
    """The largest of two or more formulas."""
    return _call("max", *arguments)


def min_of(*arguments: Formula | float) -> Formula:
    """The smallest of two or more formulas."""
    return _call("min", *arguments)


def ceil(argument: Formula | float) -> Formula:
    """The least whole number that is not below."""
    return _call("ceil", argument)


def floor(argument: Formula | float) -> Formula:
    """The greatest whole number that is not above."""
    return _call("floor", argument)


def log2(argument: Formula | float) -> Formula:
    """The logarithm to base 2."""
    return _call("log2", argument)


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A dataclass, or a tuple of them, with other names for the symbols of all formulas in it."""
    match value:
        case Formula():
            return value.renamed(names)
        case tuple():
            parts = tuple(renamed(part, names) for part in value)
            return value if all(map(operator.is_, parts, value)) else parts
    changed = {}
    kind: Any = type(value)
    for name in _fields_of(kind):
        old = getattr(value, name)
        new = renamed(old, names)
        if new is not old:
            changed[name] = new
    return replace(value, **changed) if changed else value


@lru_cache(maxsize=256)
def _fields_of(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass, in which formulas may be; none of other types, and of functions."""
    is_function = any("__call__" in base.__dict__ for base in kind.__mro__)
    return () if is_function or not is_dataclass(kind) else tuple(f.name for f in fields(kind))


# A plan has the same formulas for every model, and most models have the same plans.
@lru_cache(maxsize=4096)
def _names_in(formula: Formula) -> frozenset[str]:
    """The symbols of a formula."""
    return frozenset(names_in(formula._node))


def evaluate(text: str, values: Mapping[str, float]) -> float:
    """Parse and evaluate text. Raises FormulaError as `parse` and `Formula.evaluate` do."""
    return parse(text).evaluate(values)


@lru_cache(maxsize=4096)
def parse(text: str) -> Formula:
    """The formula that text states, printed as it is written. Raises FormulaError for anything but arithmetic."""
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"formula of {len(text)} characters; at most {MAX_LENGTH} are read")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise FormulaError(f"formula {text!r} is not arithmetic; write for example 'B*K*s'") from None
    return Formula(Written(text, tree_of(tree, text)))


def _node_of(operand: Formula | float) -> Node:
    return operand._node if isinstance(operand, Formula) else number(operand)._node


def _call(name: str, *arguments: Formula | float) -> Formula:
    return Formula(Call(name, tuple(map(_node_of, arguments))))
