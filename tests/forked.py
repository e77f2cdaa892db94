"""The process from which tests fork others that need torch: one per test worker, with the modules that any needs."""

from __future__ import annotations

from multiprocessing.context import ForkServerContext


def forked_from_everything() -> ForkServerContext:
    """The context of processes that have imported torch, the trainer and pytest already."""
    from des_ref.forked import forking_context

    return forking_context("des_ref.certify.group", "pytest", "hypothesis")
