"""Processes that are started again in a store full of what the last start left there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from des_ref.comm.meeting import meet


def test_each_start_has_one_word_of_its_own_whatever_the_last_one_left() -> None:
    store, ranks, words = dist.HashStore(), 4, []
    with ThreadPoolExecutor(ranks) as pool:
        for _ in range(3):
            said = list(pool.map(lambda rank: meet(store, rank, ranks, 20.0), reversed(range(ranks))))
            assert len(set(said)) == 1
            words.append(said[0])
    assert len(set(words)) == 3


def test_a_process_that_died_while_it_met_the_others_is_not_counted() -> None:
    store = dist.HashStore()
    store.set("hello/1", "of a process that is gone")
    with pytest.raises(TimeoutError, match=r"did not come within 0\.2 s"):
        meet(store, 0, 2, 0.2)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda rank: meet(store, rank, 2, 20.0), (0, 1))
    assert first == second
