"""Hashes of arrays and of single numbers are the same."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from dessim.cluster.hashing import mix, mix_int


@given(st.integers(0, 2**64 - 1))
@example(2**64 - 1)
def test_one_number_is_hashed_as_an_array_of_it(x: int) -> None:
    assert [mix_int(x)] == mix(np.array([x], dtype=np.uint64)).tolist()
