"""docs/codecs.md: its links exist, and its ops, codecs and bytes agree with the code."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import get_args

from dessim.workload import formula
from dessim.workload.codecs import REFRESH, Buffer, parse_codec
from dessim.workload.coded_plan import BUFFERS
from dessim.workload.formula import ONE, symbol
from dessim.workload.operators import Fm, FmFields, Nfm

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "codecs.md").read_text()
# Notation of the page -> notation of formulas.
NOTATION = {"⌈": "ceil(", "⌉": ")", "*": "", "×": "*"}


def rows_of(heading: str) -> list[list[str]]:
    section = PAGE.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert links
    for target in links:
        assert (DOCS / target).exists(), target


def test_the_page_lists_the_encoded_ops() -> None:
    ops_by_key = {key.strip("`"): re.findall(r"`(\w+)`", ops) for key, ops, _ in rows_of("Which values")}
    assert {op: key for key, ops in ops_by_key.items() for op in ops} == {op: str(b) for op, b in BUFFERS.items()}
    for operator in (Fm, FmFields, Nfm):
        (kind,) = get_args(operator.model_fields["kind"].annotation)
        assert operator.cancels and f"`{kind}`" in PAGE


def test_the_page_lists_the_codecs_with_the_bytes_of_plans() -> None:
    rows = rows_of("The codecs")
    assert len(rows) == 7
    for name, size, _, buffers, _ in rows:
        spec = name.strip("`").replace(":k", ":0.25").replace(":e", ":0.8").replace(":L", ":7")
        form = parse_codec(spec)
        assert all(str(b) in buffers for b in form.buffers) or (buffers == "all" and len(form.buffers) == len(Buffer))
        values = {"n": 10.0, "w": 33.0, "s": 4.0, "z": 0.2, "k": 0.25}
        text = size
        for a, b in NOTATION.items():
            text = text.replace(a, b)
        # Adjacent factors are products.
        text = re.sub(r"(?<=[\w)]) (?=[\w(]|ceil)", "*", text)
        expected = form.size(ONE, *map(symbol, "nwz")).evaluate(values)
        assert math.isclose(formula.evaluate(text, values), expected), (name, text)
    assert f"steps ({REFRESH:,})" in PAGE
