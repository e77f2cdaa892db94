"""Size formulas: they compute what Python computes, and run nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.errors import FormulaError
from dessim.workload import formula

SYMBOLS = {"N": 8.0, "B": 4096.0, "F": 26.0, "D": 16.0, "H1": 400.0}

leaves = st.one_of(
    st.integers(0, 1000).map(str),
    st.floats(0.001, 1000, allow_nan=False).map(repr),
    st.sampled_from(sorted(SYMBOLS)),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"-({t})"),
        inner.map(lambda t: f"({t})**2"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        st.tuples(st.sampled_from(["ceil", "floor"]), inner).map(lambda t: f"{t[0]}({t[1]})"),
    ),
    max_leaves=12,
)
PYTHON = {"min": min, "max": max, "ceil": math.ceil, "floor": math.floor, "log2": math.log2, "__builtins__": {}}


@given(trees)
def test_a_formula_evaluates_as_python_does(text):
    try:
        expected = float(eval(text, {**PYTHON, **SYMBOLS}))  # noqa: S307  our own text
    except (ZeroDivisionError, OverflowError):
        expected = math.nan
    if not math.isfinite(expected) or abs(expected) > formula.MAX_VALUE:
        with pytest.raises(FormulaError):
            formula.evaluate(text, SYMBOLS)
    else:
        assert formula.evaluate(text, SYMBOLS) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(trees)
def test_the_symbols_of_a_formula_are_all_it_needs(text):
    needed = formula.parse(text).symbols
    assert set(needed) <= set(SYMBOLS)
    for name in needed:
        with pytest.raises(FormulaError):
            formula.evaluate(text, {k: v for k, v in SYMBOLS.items() if k != name})


@pytest.mark.parametrize(
    "text",
    [
        "B.real",
        "().__class__.__bases__[0].__subclasses__()",
        "__import__('os').system('true')",
        "open('x')",
        "exec('1')",
        "[B for B in (1, 2)]",
        "(lambda: 1)()",
        "B[0]",
        "'text'",
        "'a' * 9",
        "b'x'",
        "True",
        "None",
        "1j",
        "...",
        "B if N else D",
        "B and N",
        "B < N",
        "B == N",
        "not B",
        "~N",
        "+N",
        "B // N",
        "B % N",
        "B << N",
        "B @ N",
        "(B := 2)",
        "B, N",
        "{B}",
        "f'{B}'",
        "min()",
        "min(*B)",
        "min(B, key=N)",
        "max(B)(N)",
        "import os",
        "B; N",
        "B\nN",
        "",
        "   ",
        "B N",
        "2B",
        "((B)",
        "\0",
        "B\0",
        "ＭＡＸ.x",
    ],
)
def test_anything_but_arithmetic_is_refused(text):
    with pytest.raises(FormulaError):
        formula.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "10**400",
        "B**B**B",
        "(0-8)**0.5",
        "1/0",
        "1/(B-B)",
        "0**-1",
        "log2(0)",
        "log2(0-1)",
        "log2(1, 2)",
        "ceil(1, 2)",
        "min(1)",
        "1e308*10",
        "1e999",
        "1e31",
        "ceil(1e999)",
    ],
)
def test_what_has_no_usable_value_is_an_error_at_once(text):
    with pytest.raises(FormulaError):
        formula.evaluate(text, SYMBOLS)


@pytest.mark.parametrize("text", ["(" * 300 + "B" + ")" * 300, "-" * 900 + "B", "+".join("B" * 600), "B*" * 499 + "B"])
def test_size_and_depth_are_bounded(text):
    with pytest.raises(FormulaError):
        formula.parse(text)


def test_a_long_integer_does_not_stop_the_reader():
    with pytest.raises(FormulaError):
        formula.evaluate("9" * 999, SYMBOLS)


def test_a_missing_symbol_is_named():
    with pytest.raises(FormulaError, match="'K'"):
        formula.evaluate("B*K", SYMBOLS)


def test_a_formula_prints_as_it_was_written():
    assert str(formula.parse("B * (K+1)")) == "B * (K+1)"
    assert formula.parse("B*K*B").symbols == ("B", "K")
