"""BLAS has one thread during a simulation, and the caller's number of threads afterwards."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from dessim.sim.core.blas import one_blas_thread

assert np.linalg  # loads the BLAS library


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def two_threads():
    with threadpool_limits(limits=2, user_api="blas"):
        yield


def test_the_limit_ends_with_the_call(two_threads) -> None:
    before = blas_threads()
    assert one_blas_thread(blas_threads)() == {1}
    assert blas_threads() == before == {2}


def test_the_limit_ends_with_an_exception(two_threads) -> None:
    @one_blas_thread
    def fail() -> None:
        raise ValueError(blas_threads())

    with pytest.raises(ValueError, match=r"\{1\}"):
        fail()
    assert blas_threads() == {2}


def test_nested_calls_keep_the_limit_until_the_outer_one_ends(two_threads) -> None:
    @one_blas_thread
    def outer() -> set[int]:
        one_blas_thread(blas_threads)()
        return blas_threads()

    assert outer() == {1}
    assert blas_threads() == {2}


LOADS_ANOTHER_LIBRARY = """
from tests.sim.core.test_blas import blas_threads, one_blas_thread, threadpool_limits
one_blas_thread(blas_threads)()
import scipy.linalg  # which has a BLAS library of its own
threadpool_limits(limits=2, user_api="blas")
print(blas_threads(), one_blas_thread(blas_threads)(), blas_threads())
"""


def test_a_library_that_is_loaded_later_is_limited_too() -> None:
    done = subprocess.run([sys.executable, "-c", LOADS_ANOTHER_LIBRARY], capture_output=True, text=True, check=True)
    assert done.stdout == "{2} {1} {2}\n"
