"""Size formulas: they compute what Python computes, and run nothing."""

from __future__ import annotations

import math
import operator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.errors import FormulaError, UsageError
from dessim.trace.schema import Collective
from dessim.workload import formula
from dessim.workload.coded_plan import BUFFERS
from dessim.workload.formula import add_up, ceil, group, log2, max_of, product_of, tight_sum
from dessim.workload.model import load_model
from dessim.workload.strategies import STRATEGIES, plan

SYMBOLS = {"N": 8.0, "B": 4096.0, "F": 26.0, "D": 16.0, "H1": 400.0}

SHIPPED = sorted(p.stem for p in Path(str(files("dessim.workload").joinpath("models"))).glob("*.toml"))

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


def test_a_parsed_formula_prints_as_it_was_written():
    assert str(formula.parse("B * (K+1)")) == "B * (K+1)"
    assert formula.parse("B*K*B").symbols == ("B", "K")


# -- built with Python's operators --------------------------------------------------------------------------------

B, N, F, D, H1 = (formula.symbol(name) for name in ("B", "N", "F", "D", "H1"))


@pytest.mark.parametrize(
    ("built", "text"),
    [
        (N * 8, "N*8"),
        (group(B / N) * F * D, "(B/N)*F*D"),
        (B * add_up([formula.ONE, tight_sum(D, 1), H1]) * 4, "B*(1 + (D+1) + H1)*4"),
        (N * ceil(group(H1 + F * D) / N), "N*ceil((H1 + F*D)/N)"),
        (group(H1) * 4, "(H1)*4"),
        (group(group(H1)), "(H1)"),
        (B * group(2 * D), "B*(2*D)"),
        (B * (2 * D), "B*2*D"),
        (B + (D - N), "B + D - N"),
        (B - (D - N), "B - (D - N)"),
        (B / (D * N), "B/(D*N)"),
        (2 / N - 1, "2/N - 1"),
        ((B + 1) ** 2 * N, "(B + 1)**2*N"),
        (-B * N, "(-B)*N"),
        (N + formula.number(-2), "N + (-2)"),
        (max_of(B, N + 1), "max(B, N + 1)"),
        (formula.parse("B+N") * 2, "(B+N)*2"),
        (product_of(formula.ONE, N * 1, D + 1), "(N*1)*(D + 1)"),
        (add_up([]), "0"),
        (product_of(), "1"),
    ],
)
def test_a_built_formula_prints_its_operators_and_only_the_brackets_it_needs(built, text):
    assert str(built) == text
    assert formula.parse(text) == built


@st.composite
def built_formulas(draw):
    """Formulas built with every operator and function."""
    leaf = st.one_of(
        st.sampled_from([B, N, F, D, H1]),
        st.integers(0, 1000).map(formula.number),
        st.floats(0.001, 1000, allow_nan=False).map(formula.number),
    )
    binary = [operator.add, operator.sub, operator.mul, operator.truediv, tight_sum, max_of, formula.min_of]
    unary = [operator.neg, group, ceil, formula.floor, formula.as_factor, lambda f: f**2]
    tree = st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.tuples(st.sampled_from(binary), inner, inner).map(lambda t: t[0](t[1], t[2])),
            st.tuples(st.sampled_from(unary), inner).map(lambda t: t[0](t[1])),
        ),
        max_leaves=12,
    )
    return draw(tree)


def value_or_none(expression, values):
    try:
        return expression.evaluate(values)
    except FormulaError:
        return None


@given(built_formulas())
def test_a_built_formula_prints_and_parses_to_the_same_text_and_value(built):
    parsed = formula.parse(str(built))
    assert parsed == built and str(parsed) == str(built) and parsed.symbols == built.symbols
    assert value_or_none(parsed, SYMBOLS) == value_or_none(built, SYMBOLS)


@given(built_formulas(), st.lists(st.floats(0.5, 1e4), min_size=1, max_size=4))
def test_arrays_evaluate_elementwise_to_the_same_bits(built, batches):
    each = [value_or_none(built, SYMBOLS | {"B": batch}) for batch in batches]
    values = SYMBOLS | {"B": np.array(batches)}
    if None in each:
        with pytest.raises(FormulaError):
            built.evaluate_arrays(values)
    else:
        assert np.broadcast_to(built.evaluate_arrays(values), len(batches)).tolist() == each


@given(built_formulas())
def test_a_renamed_formula_prints_its_new_names_and_keeps_its_value(built):
    names, values = {"B": "N", "N": "e", "D": "D_table_wise"}, {"N": 1.0, "e": 2.0, "D_table_wise": 3.0}
    others = {"B": 1.0, "N": 2.0, "D": 3.0}
    for before in (built, formula.parse(str(built))):
        after = before.renamed(names)
        assert set(after.symbols) == {names.get(name, name) for name in before.symbols}
        assert value_or_none(after, SYMBOLS | values) == value_or_none(before, SYMBOLS | others)
        assert value_or_none(formula.parse(str(after)), SYMBOLS | values) == value_or_none(before, SYMBOLS | others)


def test_names_are_renamed_in_neither_numbers_nor_functions():
    built = max_of(formula.symbol("e") * 1e-30, formula.symbol("max"))
    assert str(built.renamed({"e": "B", "max": "D"})) == "max(B*1e-30, D)"
    assert str(formula.parse("-(B - (N+D))/e**2").renamed({"e": "F"})) == "(-(B - (N + D)))/F**2"


def test_arrays_of_different_shapes_broadcast():
    values = {"B": np.array([[1.0], [2.0]]), "N": np.array([1.0, 2.0, 4.0])}
    assert (B * log2(N)).evaluate_arrays(values).tolist() == [[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]]
    with pytest.raises(FormulaError, match="'D'"):
        (B * D).evaluate_arrays(values)
    with pytest.raises(FormulaError, match="division by zero"):
        (1 / (1 / (N - 2))).evaluate_arrays(values)
    with pytest.raises(FormulaError, match="not a usable number"):
        (N * 1e30).evaluate_arrays(values)


def test_only_zero_is_falsy():
    assert not formula.ZERO and not group(formula.ZERO) and not formula.number(0.0)
    assert formula.ONE and B and 0 * B


@pytest.mark.parametrize("name", SHIPPED)
def test_the_formulas_of_every_plan_read_back_equal(name):
    model = load_model(name)
    for strategy in STRATEGIES:
        try:
            planned = plan(strategy, model)
        except UsageError:
            continue  # a model that this strategy cannot train
        values = planned.symbols(model.symbols(16))
        for op in planned.ops:
            for built in (op.size, op.flops, op.mem, op.keeps, op.table_rows, op.local_share, op.rows, op.width):
                parsed = formula.parse(str(built))
                assert parsed == built
                assert parsed.evaluate(values) == built.evaluate(values), (strategy, op.name, built)


@pytest.mark.parametrize("name", SHIPPED)
def test_rows_and_width_account_for_the_size_of_every_op_that_a_codec_may_encode(name):
    model = load_model(name)
    for strategy in STRATEGIES:
        try:
            planned = plan(strategy, model)
        except UsageError:
            continue
        values = planned.symbols(model.symbols(16))
        for op in planned.collectives:
            if not op.rows:
                assert op.name not in BUFFERS
                continue
            contributed = (op.rows * (op.width + op.exact_width) * 4).evaluate(values)
            copies = 16 if op.collective is Collective.ALL_GATHER else 1  # S of an AllGather counts all ranks' rows
            assert op.size.evaluate(values) == pytest.approx(copies * contributed, rel=1e-12), (strategy, op.name)
