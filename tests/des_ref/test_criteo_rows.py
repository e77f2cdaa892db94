"""Lines read many at once give the same ids as one by one, including unusual lines."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from des_ref.data import criteo_rows
from des_ref.data.bad_rows import BadRows
from des_ref.data.criteo_rows import CATEGORIES, FIELDS, INTEGERS, Integers, one_by_one, parse
from des_ref.hashing import feature_id
from dessim.errors import FileError, UsageError
from dessim.workload.model import load_model

NUMBERS = [
    "",
    "0",
    "1",
    "2",
    "3",
    "-1",
    "-0",
    "007",
    "999999999",
    "1000000000",
    "9" * 30,
    "-5000",
    "+4",
    "1_0",
    " 7",
    "4 ",
]
NUMBERS += ["-", "x", "1.5", "--2", "-99999999999999999999", "é"]
IDS = ["", "0", "a", "deadbeef", "DEADBEEF", "68fd1e64", "123456789", "7fffffffffffffff", "ffffffffffffffff", "0x1f"]
IDS += ["-1", "xyz", "g", " a", "1_0"]


def slowly(lines: list[bytes]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    rows, problems = [], []
    for number, line in enumerate(lines, start=5):
        try:
            rows.append(one_by_one(line, "file", number))
        except FileError as error:
            problems.append(f"{error.where}: {error.problem}")
    values = torch.tensor([row[1] for row in rows], dtype=torch.int64).view(-1, FIELDS)
    dense = torch.tensor([[math.log1p(count) for count in row[2]] for row in rows]).view(-1, INTEGERS)
    return feature_id(torch.arange(FIELDS), values), torch.tensor([row[0] for row in rows]), dense, problems


def check(lines: list[bytes]) -> None:
    bad = BadRows(len(lines))
    ids, labels, _ = parse(lines, "file", 5, bad)
    expected_ids, expected_labels, expected_dense, problems = slowly(lines)
    assert torch.equal(ids, expected_ids) and torch.equal(labels, expected_labels)
    dense = parse(lines, "file", 5, BadRows(len(lines)), Integers.DENSE)[2]
    assert dense is not None and torch.allclose(dense, expected_dense, rtol=1e-6, atol=0)
    assert [f"{where}: {problem}" for where, problem, _ in bad.shown] == problems


@given(seed=st.integers(0, 10**6), oddness=st.sampled_from([0.0, 0.02, 0.5]), count=st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_many_at_once_and_one_by_one_agree(seed: int, oddness: float, count: int) -> None:
    rng = random.Random(seed)

    def cell(odd: list[str], usual: str) -> str:
        return rng.choice(odd) if rng.random() < oddness else usual

    lines = []
    for _ in range(count):
        label = cell(["", "2", "01", "-1", "label", "\t"], str(rng.randrange(2)))
        numbers = [cell(NUMBERS, str(int(10 ** rng.uniform(0, 9)) - 1)) for _ in range(INTEGERS)]
        ids = [cell(IDS, f"{rng.getrandbits(32):x}") for _ in range(CATEGORIES)]
        end = cell(["", "\r\n", "\t\n", " \n"], "\n")
        lines.append("\t".join([label, *numbers, *ids]).encode() + end.encode())
    check([line if line.endswith(b"\n") or line is lines[-1] else line + b"\n" for line in lines if line])


def test_unusual_lines() -> None:
    usual = "\t".join(["1", *["7"] * INTEGERS, *["ab"] * CATEGORIES]).encode()
    check([usual + b"\n", b"\n", usual + b"\n", usual])
    check([usual + b"\r\n", usual.replace(b"7", b"", 1) + b"\n", b"\xff\n", usual + b"\t\n"])
    check([b"\t" * 39 + b"\n", b"1" + b"\t" * 39 + b"\n"])
    assert parse([], "file", 1, BadRows())[0].shape == (0, FIELDS)
    with pytest.raises(FileError, match=r"file:12: 1 columns instead of .* bad row 1 exceeds"):
        parse([usual + b"\n", b"x\n"], "file", 11, BadRows())


def test_usual_lines_are_all_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = "\t".join(["0", *["", "12", "-3"], *["7"] * 10, *["", "deadbeef"], *["ab"] * 24]).encode() + b"\n"
    expected = slowly([usual])[0]
    monkeypatch.setattr(criteo_rows, "one_by_one", None)
    ids, labels, _ = parse([usual] * 3, "file", 1, BadRows())
    assert torch.equal(ids, expected.expand(3, -1)) and labels.tolist() == [0, 0, 0]


def test_category_boundaries_agree_with_the_formula() -> None:
    smallest = criteo_rows._smallest_of_categories()
    for edge in smallest.tolist():
        for value in (edge - 1, edge, edge + 1):
            found = int(np.searchsorted(smallest, value, "right")) if value > 2 else value
            assert found == criteo_rows._category(value), value


def test_integers_are_dense_features_of_a_model_that_reads_them() -> None:
    usual = "\t".join(["1", "3", "", "-2", "100", *["7"] * 9, *["ab"] * CATEGORIES]).encode() + b"\n"
    lines = [usual, usual.replace(b"100", b"9" * 30)]  # the second is unusual
    ids, labels, dense = parse(lines, "file", 1, BadRows(), Integers.DENSE)
    assert dense is not None and dense.shape == (2, INTEGERS) and dense.dtype == torch.float32
    counts = [3, 0, 0, 100, *[7] * 9]
    assert one_by_one(usual, "file", 1)[2] == counts
    assert dense[0].tolist() == pytest.approx([math.log1p(count) for count in counts], rel=1e-6)
    assert float(dense[1, 3]) == pytest.approx(63 * math.log(2)) and torch.equal(dense[1, 4:], dense[0, 4:])
    # The ids are those of 26 fields, as without dense features.
    assert torch.equal(ids, feature_id(torch.arange(CATEGORIES), torch.full((2, CATEGORIES), 0xAB)))
    of_ids_alone, _, none = parse(lines, "file", 1, BadRows(), Integers.UNUSED)
    assert none is None and torch.equal(of_ids_alone, ids) and labels.tolist() == [1, 1]


def test_the_model_decides_what_integers_become_or_is_refused() -> None:
    fitting = {"deepfm": Integers.IDS, "criteo_kaggle": Integers.UNUSED, "criteo_1tb": Integers.DENSE}
    assert {name: Integers.of(load_model(name), "a log") for name in fitting} == fitting
    with pytest.raises(UsageError, match=r"input.fields = 8, but a log has 39 fields, or 26 without its integers"):
        Integers.of(load_model("deepfm_ml100k"), "a log")
    model = load_model("criteo_1tb")
    assert model.dense is not None
    other = model.model_copy(update={"dense": model.dense.model_copy(update={"features": 5})})
    with pytest.raises(UsageError, match=r"fields = 26 and dense.features = 5, but a log has 26 fields beside 13 int"):
        Integers.of(other, "a log")
