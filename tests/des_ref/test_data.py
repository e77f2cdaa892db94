"""Readers and generators: the samples they give, and their errors for malformed files."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from des_ref import metrics
from des_ref.data import criteo, criteo_rows, movielens
from des_ref.data.bad_rows import BadRows
from des_ref.data.batch import Examples, InMemory, slice_of
from des_ref.data.criteo import CriteoFile
from des_ref.data.movielens import DataUnavailable, load, open_movielens
from des_ref.data.synthetic import Zipf, dense_logits
from des_ref.hashing import feature_id, text_key
from des_ref.strategies.sample_assignment import samples_of
from dessim.errors import FileError
from dessim.workload.model import load_model

INTS = [str(i) for i in range(13)]
HEXES = [f"{i:08x}" for i in range(26)]


def line(label: str = "1", ints: list[str] = INTS, hexes: list[str] = HEXES) -> str:
    return "\t".join([label, *ints, *hexes]) + "\n"


def test_criteo_row_becomes_39_ids(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text(line("1") + line("0", ["", "-2", "100", *INTS[3:]], ["", *HEXES[1:]]))
    (examples,) = criteo.read(file)
    assert examples.labels.tolist() == [1.0, 0.0]
    ids = examples.ids.view(2, 39)
    assert int(ids[1, 0]) == int(feature_id(0, torch.tensor([text_key("missing")])))
    assert int(ids[1, 1]) == int(feature_id(1, torch.tensor([-2])))
    assert int(ids[1, 2]) == int(feature_id(2, torch.tensor([21])))  # floor(ln(100)**2)
    assert int(ids[1, 13]) != int(ids[0, 13])
    # The same value in another column has another id.
    assert len(set(ids[0].tolist())) == 39


def test_criteo_reads_gzip_in_chunks(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_text(line() * 25)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    parts = [list(criteo.read(path, chunk=10)) for path in (plain, packed)]
    assert [len(p) for p in parts[0]] == [10, 10, 5]
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(*parts, strict=True))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (line() + "\t".join(["1", *INTS, *HEXES[:-2]]) + "\n", ":2: 38 columns instead of 40"),
        (line("label"), ":1: label 'label' must be 0 or 1"),
        (line(ints=["1.5", *INTS[1:]]), ":1: columns 2 to 14 must be whole numbers"),
        (line(ints=["-" + "9" * 25, *INTS[1:]]), ":1: columns 2 to 14 must be whole numbers"),
        (line(hexes=["-1", *HEXES[1:]]), ":1: columns 15 to 40 must be hexadecimal"),
        (line(hexes=["xyz", *HEXES[1:]]), ":1: columns 15 to 40 must be hexadecimal"),
        (line(hexes=["f" * 20, *HEXES[1:]]), ":1: columns 15 to 40 must be hexadecimal"),
        ("", "is empty"),
        ("\xff", ":1: has bytes that are not ASCII"),
    ],
)
def test_criteo_errors_name_the_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "train.txt"
    file.write_text(text, "latin-1")
    with pytest.raises(FileError) as caught:
        list(criteo.read(file))
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_criteo_missing_or_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot be read: No such file"):
        CriteoFile(tmp_path / "no.txt")
    truncated = tmp_path / "truncated.gz"
    truncated.write_bytes(gzip.compress((line() * 50).encode())[:-12])
    with pytest.raises(FileError, match="cannot be read"):
        list(criteo.read(truncated))


def test_criteo_file_streams_batches_and_holds_out_two_tenths(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text("".join(line(str(i % 2), [str(i), *INTS[1:]]) for i in range(95)))
    source = CriteoFile(file)
    assert (len(source.validation), len(source.test), source.train_samples) == (9, 9, 77)
    whole = list(source.batches(0, 16, 0, 1))
    assert len(whole) == 4
    halves = [list(source.batches(0, 16, rank, 2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        labels = torch.cat([half[step].labels for half in halves])
        ids = torch.cat([half[step].ids for half in halves])
        assert torch.equal(labels, batch.labels) and torch.equal(ids, batch.ids)


def test_bad_rows_are_left_out_listed_and_limited(tmp_path: Path) -> None:
    file, sample = tmp_path / "train.txt", tmp_path / "run" / "bad-rows.tsv"
    good = [line(str(i % 2), [str(i), *INTS[1:]]) for i in range(95)]
    clean = tmp_path / "clean.txt"
    clean.write_text("".join(good))
    bad = {3: "half a row\n", 4: line("2"), 40: line(hexes=["xyz", *HEXES[1:]]), 98: "\xff\n"}
    lines = list(good)
    for at, text in bad.items():
        lines.insert(at, text)
    file.write_text("".join(lines), "latin-1")

    rows = BadRows(4, sample)
    source, same = CriteoFile(file, rows), CriteoFile(clean)
    assert rows.count == 4 and source.rows == 95 and source.train_samples == same.train_samples
    for a, b in zip(source.batches(0, 16, 0, 1), same.batches(0, 16, 0, 1), strict=True):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.labels, b.labels)
    shown = [text.split("\t") for text in sample.read_text().splitlines()]
    assert [text[0] for text in shown] == ["4", "5", "41", "99"]
    assert shown[0][1:] == [
        f"1 columns instead of {criteo_rows.COLUMNS} (label, 13 integers, 26 ids, tab-separated, no header)",
        "'half a row'",
    ]
    assert shown[3][1] == "has bytes that are not ASCII"

    with pytest.raises(FileError) as caught:
        CriteoFile(file, BadRows(2, sample))
    assert f"{file}:41: columns 15 to 40 must be hexadecimal" in str(caught.value)
    assert f"bad row 3 exceeds data.max_bad_rows (--max-bad-rows) = 2 (listed in {sample})" in str(caught.value)
    assert len(sample.read_text().splitlines()) == 3
    with pytest.raises(FileError, match=r"train.txt:4: 1 columns .*; bad row 1 exceeds .* = 0$"):
        CriteoFile(file)


def test_sources_resume_at_any_batch(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text("".join(line(str(i % 2), [str(i), *INTS[1:]]) for i in range(95)))
    for source in (CriteoFile(file), Zipf(3, 2.0, 100, 1.0, seed=5).open(100)):
        whole = list(source.batches(1, 16, 1, 2))
        for first in range(len(whole) + 2):
            rest = list(source.batches(1, 16, 1, 2, first))
            assert len(rest) == max(len(whole) - first, 0)
            assert all(torch.equal(a.ids, b.ids) for a, b in zip(rest, whole[first:], strict=True))


def test_take_selects_reorders_and_pads() -> None:
    examples = Examples(
        torch.tensor([10, 11, 20, 30, 31, 32]),
        torch.tensor([0, 1, 0, 0, 1, 1]),
        torch.tensor([0, 2, 3, 6]),
        torch.tensor([1.0, 0.0, 1.0]),
    )
    batch = examples.take(torch.tensor([2, -1, 0]))
    assert batch.ids.tolist() == [30, 31, 32, 10, 11]
    assert batch.sample.tolist() == [0, 0, 0, 2, 2]
    assert batch.field.tolist() == [0, 1, 1, 0, 1]
    assert batch.labels.tolist() == [1.0, 0.0, 1.0]


def test_dense_features_stay_beside_their_samples() -> None:
    count, dense = 12, torch.arange(24.0).view(12, 2)
    examples = Examples.of_columns(torch.arange(count)[:, None], dense[:, 0], dense)
    batch = examples.take(torch.tensor([7, -1, 3]))
    assert batch.dense is not None and batch.dense.tolist() == [[14, 15], [0, 0], [6, 7]]
    parts = [examples.select(torch.arange(5)), examples.select(torch.arange(5, count))]
    whole = Examples.concatenate(parts).take(torch.arange(count))
    shares = [slice_of(whole, rank, 3) for rank in range(3)]
    shares += [samples_of(whole, torch.arange(count) % 2, rank) for rank in range(2)]
    for share in shares:
        own = share.to("cpu").dense
        assert own is not None and torch.equal(own[:, 0], share.labels)
        assert torch.equal(own[:, 0].long(), 2 * share.ids)


def test_ranks_share_each_global_batch() -> None:
    source = Zipf(3, 2.0, 100, 1.0, seed=5).open(200)
    assert isinstance(source, InMemory)
    whole = list(source.batches(1, 40, 0, 1))
    parts = [list(source.batches(1, 40, rank, 4)) for rank in range(4)]
    assert len(whole) == source.train_samples // 40 == 4
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([p[step].ids for p in parts]), batch.ids)
        assert torch.equal(torch.cat([p[step].sample + 10 * r for r, p in enumerate(parts)]), batch.sample)
    other = next(source.batches(2, 40, 0, 1))
    assert not torch.equal(other.labels, whole[0].labels) or len(other.ids) != len(whole[0].ids)


def test_synthetic_is_deterministic_skewed_and_learnable() -> None:
    zipf = Zipf(fields=4, ids_per_field=1.5, vocabulary=4000, skew=1.1, seed=3)
    a, b = zipf.examples(5000), zipf.examples(5000)
    assert torch.equal(a.ids, b.ids) and torch.equal(a.labels, b.labels)
    assert not torch.equal(zipf.examples(5000, part=1).labels, a.labels)
    _, counts = torch.unique(a.ids, return_counts=True)
    assert int(counts.max()) > 50 * float(counts.double().median())
    assert 0.2 < float(a.labels.mean()) < 0.8
    assert len(a.ids) / 5000 == pytest.approx(6.0, rel=0.05)


def test_synthetic_dense_features_are_deterministic_and_decide_labels() -> None:
    model = load_model("criteo_1tb")
    zipf = Zipf.of(model, 5)
    a, b = zipf.examples(5000), zipf.examples(5000)
    assert a.dense is not None and b.dense is not None and a.dense.shape == (5000, 13)
    assert torch.equal(a.dense, b.dense) and torch.equal(a.labels, b.labels) and a.dense.dtype == torch.float32
    assert float(a.dense.mean()) == pytest.approx(1, abs=0.02) and float(a.dense.var()) == pytest.approx(1, abs=0.1)
    # The teacher's sum over dense features alone predicts clicks better than chance.
    assert metrics.auc(dense_logits(a.dense, 26, 5).numpy(), a.labels.numpy()) > 0.55
    assert torch.equal(replace(zipf, dense=0).examples(5000).ids, a.ids)


def test_movielens_has_the_published_sizes(wheel: Path) -> None:
    examples, times = load(wheel)
    assert len(examples) == len(times) == 100_000
    assert int(examples.labels.sum()) == 55_375
    users = examples.ids[examples.field == movielens.FIELDS.index("user")]
    items = examples.ids[examples.field == movielens.FIELDS.index("item")]
    assert (len(torch.unique(users)), len(torch.unique(items))) == (943, 1682)
    assert set(examples.field.tolist()) == set(range(8))


def test_movielens_time_split_is_in_time_order(wheel: Path) -> None:
    source = open_movielens(wheel, "time", 0)
    assert [len(p) for p in (source.train, source.validation, source.test)] == [80_000, 10_000, 10_000]


@pytest.mark.parametrize(
    ("ratings", "problem"),
    [(3, "3 ratings; at least 10"), (12, "not MovieLens-100K as recbole writes it")],
)
def test_a_folder_with_other_files_is_named(ratings: int, problem: str, tmp_path: Path) -> None:
    (tmp_path / "ml-100k.user").write_text("user\n1\t24\tM\ttechnician\t85711\n")
    (tmp_path / "ml-100k.item").write_text("item\n1\tToy Story\t1995\tAnimation\n")
    (tmp_path / "ml-100k.inter").write_text("inter\n" + "2\t1\t5\t881250949\n" * ratings)  # no user 2
    with pytest.raises(FileError, match=problem):
        open_movielens(tmp_path, "random", 0)


def test_a_damaged_wheel_is_named(tmp_path: Path, wheel: Path) -> None:
    bad = tmp_path / "bad.whl"
    bad.write_bytes(wheel.read_bytes()[:1000])
    with pytest.raises(FileError, match="not a wheel"):
        load(bad)
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(FileError, match="cannot be read"):
        load(folder)


def test_without_network_the_error_is_data_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(movielens.sys, "executable", shutil.which("false") or "/bin/false")
    with pytest.raises(DataUnavailable, match="pip cannot download it"):
        movielens.find_or_download()
    assert not (tmp_path / "dessim").exists()
