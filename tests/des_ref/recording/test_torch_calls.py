"""The memory traffic of an operator that indexes a table is that of the rows it touches, not of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from des_ref.embedding.growing import Growing
from des_ref.embedding.hash_table import RowTable
from des_ref.recording.torch_calls import touched_bytes, touches_memory

ROWS, WIDTH, PICKED = 5000, 8, 3
ROW = 4 * WIDTH  # bytes
INDEX = 8 * PICKED


class Counted(TorchDispatchMode):
    """Sums the bytes that operators touch."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if touches_memory(func):
            self.total += touched_bytes(func, args, out)
        return out


def bytes_touched(work: Callable[[], object]) -> int:
    with Counted() as counted:
        work()
    return counted.total


def test_indexing_counts_the_selected_rows() -> None:
    table = torch.zeros(ROWS, WIDTH)
    rows = torch.tensor([4, 2, 9])
    new = torch.ones(PICKED, WIDTH)
    every = rows[:, None].expand(PICKED, WIDTH).contiguous()
    picked = PICKED * ROW
    assert bytes_touched(lambda: table.index_select(0, rows)) == INDEX + 2 * picked
    assert bytes_touched(lambda: table[rows]) == INDEX + 2 * picked
    assert bytes_touched(lambda: torch.nn.functional.embedding(rows, table)) == INDEX + 2 * picked
    assert bytes_touched(lambda: table.gather(0, every)) == 8 * every.numel() + 2 * picked
    assert bytes_touched(lambda: table.index_copy_(0, rows, new)) == INDEX + 2 * picked
    assert bytes_touched(lambda: table.index_fill_(0, rows, 1.0)) == INDEX + picked
    assert bytes_touched(lambda: table.index_add_(0, rows, new)) == INDEX + 3 * picked  # read, added to, and written
    assert bytes_touched(lambda: table.scatter_add_(0, every, new)) == 8 * every.numel() + 3 * picked
    assert bytes_touched(lambda: table.index_put_((rows,), new)) == INDEX + 2 * picked
    for put in (torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_):
        assert bytes_touched(lambda put=put: put(table, [rows], new)) == INDEX + 2 * picked
        assert bytes_touched(lambda put=put: put(table, [rows], new, accumulate=True)) == INDEX + 3 * picked


def test_a_bag_counts_the_rows_that_it_sums() -> None:
    table, rows, starts = torch.zeros(ROWS, WIDTH), torch.tensor([4, 2, 9]), torch.tensor([0, 2])
    counted = bytes_touched(lambda: torch.nn.functional.embedding_bag(rows, table, starts, mode="sum"))
    assert PICKED * ROW + INDEX + 2 * ROW <= counted < 1000


def test_other_operators_count_their_tensors() -> None:
    a, b = torch.ones(100), torch.ones(100)
    assert bytes_touched(lambda: a + b) == 3 * 400
    assert bytes_touched(lambda: a.view(10, 10)) == 0


def test_reserved_rows_cost_nothing() -> None:
    """A table reserves address space for all rows that memory could hold; a step touches a few of them."""
    assert Growing(torch.float32, "cpu", WIDTH).values.numel() * 4 > 2**28

    def initial(ids: Tensor) -> dict[str, Tensor]:
        return {"v": torch.zeros(len(ids), WIDTH)}

    table = RowTable({"v": WIDTH}, initial)
    ids = torch.arange(20)
    rows = table.find_or_insert(ids)
    found = bytes_touched(lambda: table.values(ids, table.find_or_insert(ids), ("v",)))
    assert 2 * len(ids) * ROW < found < 50 * len(ids) * ROW
    new = torch.ones(len(ids), WIDTH)
    written = bytes_touched(lambda: table.write("v", rows, new))
    assert written == pytest.approx(2 * len(ids) * ROW + 8 * len(ids))
