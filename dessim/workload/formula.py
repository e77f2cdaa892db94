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
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import IntEnum
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from dessim.errors import FormulaError
from dessim.workload.expression import (
    Array,
    Call,
    Chain,
    Negative,
    Node,
    Number,
    Symbol,
    array_value_of,
    names_in,
    renamed_node,
    tree_of,
    value_of,
)

MAX_LENGTH = 1000  # characters of text that is parsed
MAX_VALUE = 1e30  # a larger result is an error


class _Binding(IntEnum):
    """How tightly a formula's outermost operation binds. An operand that binds too loosely is printed in brackets."""

    OPAQUE = 0  # in brackets wherever it is an operand: parsed text, negative numbers
    SUM = 1
    PRODUCT = 2
    POWER = 3
    ATOM = 4  # a symbol, a number, a call, or a formula in brackets


@dataclass(frozen=True, slots=True)
class Formula:
    """An immutable expression. Two formulas are equal when they print the same text. Only the number 0 is falsy."""

    text: str
    _node: Node = field(compare=False, repr=False)
    _binding: _Binding = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        return not (isinstance(self._node, Number) and self._node.value == 0)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names that an evaluation needs, sorted."""
        return tuple(sorted(_names_in(self)))

    def __add__(self, other: Formula | float) -> Formula:
        return _joined(self, " + ", other, _Binding.SUM)

    def __radd__(self, other: float) -> Formula:
        return number(other) + self

    def __sub__(self, other: Formula | float) -> Formula:
        return _joined(self, " - ", other, _Binding.SUM)

    def __rsub__(self, other: float) -> Formula:
        return number(other) - self

    def __mul__(self, other: Formula | float) -> Formula:
        return _joined(self, "*", other, _Binding.PRODUCT)

    def __rmul__(self, other: float) -> Formula:
        return number(other) * self

    def __truediv__(self, other: Formula | float) -> Formula:
        return _joined(self, "/", other, _Binding.PRODUCT)

    def __rtruediv__(self, other: float) -> Formula:
        return number(other) / self

    def __pow__(self, other: Formula | float) -> Formula:
        base, exponent = as_factor(self), as_factor(_formula(other))
        chain = Chain(base._node, (("**", exponent._node),))
        return Formula(f"{base}**{exponent}", chain, _Binding.POWER)

    def __neg__(self) -> Formula:
        operand = as_factor(self)
        return Formula(f"-{operand}", Negative(operand._node), _Binding.OPAQUE)

    def renamed(self, names: Mapping[str, str]) -> Formula:
        """The same formula with other names for some of its symbols."""
        changed = _names_in(self).intersection(names)
        return _renamed(self, self._binding, tuple((old, names[old]) for old in sorted(changed))) if changed else self

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
    return Formula(name, Symbol(name), _Binding.ATOM)


def number(value: int | float) -> Formula:
    """The formula that is one number, printed as Python prints it."""
    value = value if isinstance(value, int) else float(value)  # numpy's floats print differently
    return Formula(repr(value), Number(value), _Binding.ATOM if value >= 0 else _Binding.OPAQUE)


ZERO = number(0)
ONE = number(1)


def group(inner: Formula | float) -> Formula:
    """`inner` in brackets: `group(B / N) * m` prints `(B/N)*m`. Brackets are not doubled."""
    inner = _formula(inner)
    text = inner.text
    in_brackets = inner._binding is _Binding.ATOM and text.startswith("(")
    return inner if in_brackets else Formula(f"({text})", inner._node, _Binding.ATOM)


def as_factor(inner: Formula) -> Formula:
    """`inner` in brackets unless it is a symbol, a number, a call or in brackets already."""
    return inner if inner._binding is _Binding.ATOM else group(inner)


def tight_sum(left: Formula | float, right: Formula | float) -> Formula:
    """A sum in brackets without spaces: `tight_sum(D, 1)` prints `(D+1)`."""
    chain = _joined(_formula(left), "+", right, _Binding.SUM)
    return group(chain)


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


@lru_cache(maxsize=4096)
def _renamed(formula: Formula, binding: _Binding, pairs: tuple[tuple[str, str], ...]) -> Formula:
    """A formula with other names for its symbols: `pairs` of an old and a new one. Equal formulas may differ in
    `binding`, so that it is a part of the key."""
    names = dict(pairs)
    text = re.sub(r"[A-Za-z]\w*", lambda found: names.get(found[0], found[0]), formula.text)
    return Formula(text, renamed_node(formula._node, names), binding)


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
    node = tree_of(tree, text)
    is_atom = isinstance(node, Symbol | Number | Call)
    return Formula(text, node, _Binding.ATOM if is_atom else _Binding.OPAQUE)


def _formula(operand: Formula | float) -> Formula:
    return operand if isinstance(operand, Formula) else number(operand)


def _joined(left: Formula, sign: str, other: Formula | float, binding: _Binding) -> Formula:
    """`left sign other`. An operand that binds as loosely as the operation joins its chain, as it does in text."""
    right = _formula(other)
    if left._binding < binding:
        left = group(left)
    # `a - (b + c)` and `a/(b*c)` differ from `a - b + c` and `a/b*c`.
    inverts = sign.strip() in "-/"
    if right._binding < binding or (right._binding is binding and inverts):
        right = group(right)
    first, rest = _open_chain(left, binding)
    second, more = _open_chain(right, binding)
    chain = Chain(first, (*rest, (sign.strip(), second), *more))
    return Formula(f"{left}{sign}{right}", chain, binding)


def _open_chain(operand: Formula, binding: _Binding) -> tuple[Node, tuple[tuple[str, Node], ...]]:
    """The operations of a chain that another one continues; an operand in brackets is a single value."""
    node = operand._node
    if operand._binding is binding and isinstance(node, Chain):
        return node.first, node.rest
    return node, ()


def _call(name: str, *arguments: Formula | float) -> Formula:
    formulas = [_formula(argument) for argument in arguments]
    text = f"{name}({', '.join(map(str, formulas))})"
    return Formula(text, Call(name, tuple(f._node for f in formulas)), _Binding.ATOM)
