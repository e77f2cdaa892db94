"""Size formulas: `B*K*s`, `(B/N)*m*k`. Arithmetic of named symbols, nothing else.

A formula states how many bytes (or FLOPs) an op moves as a function of the job, so that what was recorded at 4 ranks
can be said for 4,096. The trainer, the certificate and the simulator evaluate the same text.

Grammar: numbers, symbols, `+ - * / **`, parentheses and `min max ceil floor log2`. The text is parsed to a syntax
tree of these nodes only; nothing is ever executed.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from dessim.errors import FormulaError

MAX_LENGTH = 1000  # characters; formulas come from trace files, which are untrusted
MAX_DEPTH = 50
MAX_VALUE = 1e30

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "ceil": math.ceil,
    "floor": math.floor,
    "log2": math.log2,
}


@dataclass(frozen=True, slots=True)
class Formula:
    """A parsed formula. `symbols` are the names it needs, sorted."""

    text: str
    symbols: tuple[str, ...]
    _tree: ast.expr

    def evaluate(self, values: Mapping[str, float]) -> float:
        """The number for these symbol values. Raises FormulaError when one is missing or the result is not finite."""
        try:
            result = _walk(self._tree, values, self.text)
        except (ZeroDivisionError, OverflowError, ValueError, TypeError) as error:
            raise FormulaError(f"formula {self.text!r} does not evaluate: {error}") from None
        if isinstance(result, complex) or not math.isfinite(result) or abs(result) > MAX_VALUE:
            raise FormulaError(f"formula {self.text!r} gives {result}, not a usable number")
        return result

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)
def parse(text: str) -> Formula:
    """Parse a formula. Raises FormulaError for anything but arithmetic."""
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"formula of {len(text)} characters; at most {MAX_LENGTH} are read")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise FormulaError(f"formula {text!r} is not arithmetic; write for example 'B*K*s'") from None
    names: dict[str, None] = {}
    _check(tree, names, text, 0)
    return Formula(text, tuple(sorted(names)), tree)


def evaluate(text: str, values: Mapping[str, float]) -> float:
    """Parse and evaluate in one go."""
    return parse(text).evaluate(values)


def _check(node: ast.expr, names: dict[str, None], text: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise FormulaError(f"formula {text[:40]!r}... is nested deeper than {MAX_DEPTH}")
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return
        case ast.Name(id=name):
            names[name] = None
            return
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            _check(inner, names, text, depth + 1)
            return
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            _check(left, names, text, depth + 1)
            _check(right, names, text, depth + 1)
            return
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
            for argument in args:
                _check(argument, names, text, depth + 1)
            return
    allowed = ", ".join(_FUNCTIONS)
    raise FormulaError(f"formula {text!r}: {ast.unparse(node)!r} is not arithmetic; use + - * / ** and {allowed}")


def _walk(node: ast.expr, values: Mapping[str, float], text: str) -> float:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]  # _check let only numbers through
        case ast.Name(id=name):
            if name not in values:
                raise FormulaError(f"formula {text!r} needs {name!r}, which this trace or model does not give")
            return float(values[name])
        case ast.UnaryOp(operand=inner):
            return -_walk(inner, values, text)
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_walk(left, values, text), _walk(right, values, text))
        case ast.Call(func=ast.Name(id=name), args=args):
            return float(_FUNCTIONS[name](*(_walk(a, values, text) for a in args)))
    raise AssertionError(f"unchecked node in {text!r}")
