"""The certificate passes with any row optimizer, with and without sending the next batch's ids ahead."""

from __future__ import annotations

from pathlib import Path

import pytest

from des_ref.certify.case import Case
from des_ref.certify.group import certify
from des_ref.certify.show import passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "pipeline", "optimizer"),
    [
        ("des_reduce_scatter", False, "ftrl"),
        ("table_wise", True, "adam"),
    ],
)
def test_passes(strategy: str, pipeline: bool, optimizer: str, tiny: Path) -> None:
    result = certify(Case(2, 4, str(tiny), strategy, "cpu", pipeline=pipeline, optimizer=optimizer))
    assert passed(result), result
    # Every input op of every step is audited, whichever thread sent it.
    sent = {op["name"]: op["recorded_bytes"] for op in result["ops"]}
    assert sent["ids"] > 0 and not any(op["mismatches"] for op in result["ops"])
