"""send_recv: each rank sends S bytes to the next and receives from the previous one, as in nccl-tests' sendrecv."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.collectives.schedule import Layout, Stage


def shift_send_recv(layout: Layout, size: float) -> Iterator[Stage]:
    """One stage of n messages; two ranks exchange their data."""
    n = layout.n
    if n < 2:
        return
    ranks = np.arange(n, dtype=np.int64)
    yield Stage(
        pattern=("shift", 1),
        src=ranks,
        dst=(ranks + 1) % n,
        size=np.full(n, size),
        carries=lambda _: [[i] for i in range(n)],
    )
