"""Processes that restart with a store full of the keys of earlier starts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from des_ref.comm.store_prefix import agree_on_prefix


def test_each_start_agrees_on_a_new_prefix_whatever_earlier_starts_left() -> None:
    store, ranks, prefixes = dist.HashStore(), 4, []
    with ThreadPoolExecutor(ranks) as pool:
        for _ in range(3):
            agreed = list(pool.map(lambda rank: agree_on_prefix(store, rank, ranks, 20.0), reversed(range(ranks))))
            assert len(set(agreed)) == 1
            prefixes.append(agreed[0])
    assert len(set(prefixes)) == 3


def test_a_process_that_died_before_confirming_is_not_counted() -> None:
    store = dist.HashStore()
    store.set("hello/1", "name of a process that has died")
    with pytest.raises(TimeoutError, match=r"did not arrive within 0\.2 s"):
        agree_on_prefix(store, 0, 2, 0.2)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda rank: agree_on_prefix(store, rank, 2, 20.0), (0, 1))
    assert first == second
