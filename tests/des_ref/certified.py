"""The requirements on the certificate of an exact strategy."""

from __future__ import annotations

from typing import Any

from des_ref.certify.show import passed


def assert_certified(result: dict[str, Any]) -> None:
    """Loss, gradients and parameters are those of one process, and recorded bytes those of the formulas."""
    assert passed(result) and result["bytes_match"], result
    assert max(result[f"max_{what}_diff"] for what in ("loss", "grad", "param")) < 1e-12, result
