"""The law of a log: known laws are recovered, counts are exact, and MovieLens-100K is predicted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dessim.errors import FileError
from dessim.workload.id_logs import count
from dessim.workload.id_logs.blocks import LARGEST_BLOCK, blocks, half_of
from dessim.workload.id_logs.columns import Column, hash_integers
from dessim.workload.id_logs.measure import MeasuredLog, measure
from dessim.workload.ids import ZipfLaw
from tests.workload.id_logs.logs import drawn

LAWS = [
    ZipfLaw(100_000, 1.1),
    ZipfLaw(1_000_000, 1.3, offset=20.0),
    ZipfLaw(1000, 0.8, offset=5.0),
    ZipfLaw(1_000_000, 0.7),
    ZipfLaw(2, 0.0),
    ZipfLaw(1, 1.0),
]


def _measured(columns: list[Column]) -> MeasuredLog:
    return measure([str(number) for number in range(len(columns))], [tuple(columns)], "log")


def test_known_laws_predict_the_other_half() -> None:
    columns = [Column(hash_integers(drawn(law, 600_000, seed))) for seed, law in enumerate(LAWS)]
    found = _measured(columns)
    assert found.block == LARGEST_BLOCK
    for law, table in zip(LAWS, found.tables, strict=True):
        assert [check.batch for check in table.checks] == [2**k for k in range(8, 18)]
        assert abs(table.largest_error) < 0.03, law
        for check in table.checks:
            assert check.predicted == pytest.approx(law.unique(check.batch), rel=0.03)
        assert table.law.vocabulary >= table.different


def test_a_uniform_law_and_its_rows_are_found() -> None:
    (table,) = _measured([Column(hash_integers(drawn(ZipfLaw(5000, 0.0), 100_000, 3)))]).tables
    assert table.different == 5000
    assert table.law.vocabulary == pytest.approx(5000, rel=0.01) and table.law.skew < 0.1


def test_counts_equal_those_of_sets() -> None:
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, 5, 5000)
    ids = rng.integers(0, 300, int(lengths.sum()))
    found = _measured([Column(hash_integers(ids), lengths)])
    (table,) = found.tables
    assert (found.samples, found.block) == (5000, 1024)
    assert table.is_exact and table.different == len(set(ids.tolist()))
    assert table.ids == pytest.approx(lengths.mean(), rel=1e-5)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for check in table.checks:
        sizes: tuple[list[int], list[int]] = ([], [])
        for first in range(0, 4096, check.batch):
            batch = ids[starts[first] : starts[first + check.batch]]
            sizes[half_of(first // 1024)].append(len(set(batch.tolist())))
        assert (check.fitted, check.measured) == (np.mean(sizes[0]), np.mean(sizes[1]))


def test_parts_of_any_length_give_the_same_result() -> None:
    column = Column(hash_integers(drawn(LAWS[2], 700_000, 9)))
    edges = [0, 1, 1000, 300_000, 540_000, 700_000]
    parts = [(column.cut(start, stop),) for start, stop in pairwise(edges)]
    assert measure(["a"], parts, "log") == measure(["a"], [(column,)], "log")
    assert [block.samples for block in blocks(parts)] == [LARGEST_BLOCK] * 5 + [700_000 - 5 * LARGEST_BLOCK]


def test_memory_is_bounded_by_a_sample_of_the_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "MAX_KEPT", 20_000)
    sample = count.IdSample()
    for start in range(0, 1_000_000, 50_000):
        column = Column(hash_integers(np.arange(start, start + 100_000)))
        sample = sample.with_ids(count.different_hashes(count.sorted_keys(column)))
        assert len(sample.kept) <= 20_000
    assert sample.halvings == 6
    assert sample.different == pytest.approx(1_050_000, rel=0.03)


@pytest.mark.parametrize(("samples", "text"), [(0, "no samples"), (1023, "has 1,023 samples")])
def test_a_short_log_is_refused(samples: int, text: str) -> None:
    with pytest.raises(FileError, match=text):
        _measured([Column(hash_integers(np.arange(samples)))])


def test_a_table_without_ids_is_refused() -> None:
    with pytest.raises(FileError, match=r"log:0: this table has no ids"):
        _measured([Column(hash_integers(np.arange(0)), np.zeros(2000, np.int64))])
