"""Ranks that start at once: they are forked from one process that has imported torch and done nothing else.

Importing torch takes a process 1.3 s, and its first optimizer 1.8 s more, which imports the compiler (torch._dynamo).
The process that imports them has no threads and no CUDA context, so forking it is safe.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext

import torch


def forking_context(*modules: str, first: Sequence[str] = ()) -> ForkServerContext:
    """A multiprocessing context whose processes start with `modules` imported, those of `first` before torch.

    The first call in a program determines the modules.
    """
    context = multiprocessing.get_context("forkserver")
    # The compiler asks for the driver's version, after which a forked process could not use CUDA.
    compiler = () if torch.cuda.is_available() else ("torch._dynamo",)
    context.set_forkserver_preload([*first, *compiler, *modules])
    return context
