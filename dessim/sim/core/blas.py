"""Limits the BLAS library to one thread while the simulator runs.

The matrices of the rate solver are small, a few hundred rows at most. BLAS threads cost more than they save on these,
and the rounding of the results would depend on the number of cores. An environment variable such as
OPENBLAS_NUM_THREADS works only if it is set before numpy is imported, and would also slow down the caller's own linear
algebra. So the limit is set at run time, and the earlier value is restored when the simulation ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

Params = ParamSpec("Params")
Result = TypeVar("Result")


def one_blas_thread(function: Callable[Params, Result]) -> Callable[Params, Result]:
    """Return `function` with BLAS limited to one thread while it runs.

    The limit holds for the whole process: BLAS calls in other Python threads are slower in the meantime.
    """

    @wraps(function)
    def limited(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        with _controller(len(sys.modules)).limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited


@lru_cache(maxsize=1)
def _controller(modules: int) -> ThreadpoolController:
    """The BLAS libraries that are loaded: numpy's, and scipy's own after its import.

    Finding them takes milliseconds, setting their limit microseconds. So they are found anew only if another number of
    `modules` has been imported.
    """
    return ThreadpoolController()  # type: ignore[no-untyped-call]
