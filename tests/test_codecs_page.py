"""docs/codecs.md: its links lead somewhere, its ops and codecs are those there are, its bytes those of the formulas."""

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
# How the page writes bytes, in the words of a formula.
WORDS = {"⌈": "ceil(", "⌉": ")", "*": "", "×": "*"}


def rows_of(heading: str) -> list[list[str]]:
    part = PAGE.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert links
    for target in links:
        assert (DOCS / target).exists(), target


def test_the_ops_are_those_that_are_encoded() -> None:
    found = {key.strip("`"): re.findall(r"`(\w+)`", ops) for key, ops, _ in rows_of("Which values")}
    assert {op: key for key, ops in found.items() for op in ops} == {op: str(b) for op, b in BUFFERS.items()}
    for spec in (Fm, FmFields, Nfm):
        assert spec.cancels and f"`{get_args(spec.model_fields['kind'].annotation)[0]}`" in PAGE


def test_the_codecs_and_their_bytes_are_those_of_plans() -> None:
    rows = rows_of("The codecs")
    assert len(rows) == 7
    for name, size, _, buffers, _ in rows:
        written = name.strip("`").replace(":k", ":0.25").replace(":e", ":0.8").replace(":L", ":7")
        form = parse_codec(written)
        assert all(str(b) in buffers for b in form.buffers) or (buffers == "all" and len(form.buffers) == len(Buffer))
        values = {"n": 10.0, "w": 33.0, "s": 4.0, "z": 0.2, "k": 0.25}
        text = size
        for a, b in WORDS.items():
            text = text.replace(a, b)
        # Factors that stand side by side are products.
        text = re.sub(r"(?<=[\w)]) (?=[\w(]|ceil)", "*", text)
        expected = form.size(ONE, *map(symbol, "nwz")).evaluate(values)
        assert math.isclose(formula.evaluate(text, values), expected), (name, text)
    assert f"steps ({REFRESH:,})" in PAGE
