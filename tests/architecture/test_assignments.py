"""One assignment a line: a statement sets one name, except for swaps and for the parts of one value."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.test_house import ROOT, SOURCES


def faults(code: str) -> list[str]:
    """The assignments of `code` that set several names, each with its line.

    Allowed: parts of one value (`a, b = f()`), and tuples where the right side reads what the left side sets
    (`a, b = b, a`), which separate lines would read too late.
    """
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Assign):
            continue
        target, *others = node.targets
        if others:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        elif isinstance(target, ast.Tuple | ast.List) and isinstance(node.value, ast.Tuple | ast.List):
            read = {ast.unparse(part) for part in ast.walk(node.value) if isinstance(part, ast.expr)}
            if not read & {ast.unparse(part) for part in target.elts}:
                found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize(
    "code", ["a = b = 0", "a = self.b = f()", "a, b = x, y", "a, b = f(x), x.a", "(a, *b) = [x, *y]"]
)
def test_several_assignments_in_a_line_are_a_fault(code: str) -> None:
    assert len(faults(code)) == 1


@pytest.mark.parametrize(
    "code", ["a = 0", "a, b = f()", "a, b = b, a", "a, b = b, a + b", "taken, self.b = self.b, None", "a = b, c"]
)
def test_swaps_and_parts_of_one_value_are_none(code: str) -> None:
    assert not faults(code)


def test_every_module_has_one_assignment_a_line() -> None:
    found = [f"{path.relative_to(ROOT)}:{fault}" for path in SOURCES for fault in faults(path.read_text("utf-8"))]
    assert not found, "\n".join(found)
