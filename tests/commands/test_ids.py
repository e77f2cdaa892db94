"""`dessim ids`: what it writes and prints, and one line for each bad input."""

from __future__ import annotations

import gzip
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from dessim.workload.model import parse_model
from tests.test_cli import refused, run
from tests.workload.id_logs.logs import criteo_lines

GOOD = criteo_lines(2100)
DIFFERENT = [
    len(set(cells)) for cells in list(zip(*(line.split(b"\t") for line in GOOD.splitlines()), strict=True))[14:]
]


def test_tables_of_a_criteo_log_are_a_part_of_a_model_file(tmp_path: Path) -> None:
    log, out = tmp_path / "day_0", tmp_path / "ids.toml"
    log.write_bytes(GOOD)
    assert DIFFERENT[:20] == [10 * k for k in range(1, 21)]
    code, printed, err = run("ids", str(log), "-o", str(out), "--json")
    assert (code, err) == (0, "")
    found = json.loads(printed)
    assert (found["samples"], found["block_samples"], found["out"]) == (2100, 512, str(out))
    assert [table["different_ids"] for table in found["tables"]] == DIFFERENT
    assert all(table["ids"] == 1 and abs(table["largest_error"]) < 0.06 for table in found["tables"])
    tables = tomllib.loads(out.read_text())["tables"]
    head = {"schema_version": 2, "name": "ours", "embedding": {"width": 8}, "operators": [{"kind": "lr"}]}
    model = parse_model({**head, "tables": tables}, out)
    assert [table.rows for table in model.tables] == [table["rows"] for table in found["tables"]]
    text = out.read_text()
    assert "2,100 samples" in text and f'# "C26": {DIFFERENT[25]} different ids.' in text


def test_gzip_several_files_and_crlf_give_the_same_tables(tmp_path: Path) -> None:
    lines = GOOD.splitlines(keepends=True)
    (tmp_path / "all.tsv").write_bytes(GOOD)
    (tmp_path / "a.txt").write_bytes(b"".join(lines[:700]))
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"".join(lines[700:]).removesuffix(b"\n")))
    (tmp_path / "crlf.tsv").write_bytes(GOOD.replace(b"\n", b"\r\n"))

    def tables(*names: str) -> list[dict[str, object]]:
        logs = [str(tmp_path / name) for name in names]
        code, out, err = run("ids", *logs, "-o", str(tmp_path / "ids.toml"), "--json")
        assert (code, err) == (0, "")
        found: list[dict[str, object]] = json.loads(out)["tables"]
        return found

    assert tables("all.tsv") == tables("a.txt", "b.tsv.gz") == tables("crlf.tsv")


def test_the_terminal_shows_tables_and_errors(tmp_path: Path) -> None:
    (tmp_path / "day_0").write_bytes(GOOD)
    code, out, _ = run("ids", str(tmp_path / "day_0"), "-o", str(tmp_path / "ids.toml"))
    assert code == 0 and "C26" in out and "worst error" in out and "2,100 samples" in out


@pytest.mark.parametrize(
    ("code", "name", "content", "text"),
    [
        (1, "missing.tsv", None, "missing.tsv: no such file"),
        (1, "torn.tsv", GOOD + b"1\t2\t3", "torn.tsv:2101: the last line is torn: 3 columns instead of 40"),
        (1, "short.tsv", GOOD + b"\t" * 37 + b"\n" + GOOD, "short.tsv:2101: 38 columns instead of 40"),
        (1, "blank.tsv", GOOD + b"\n", "blank.tsv:2101: 1 columns instead of 40"),
        (1, "long.tsv", b"0" + b"\t" * 40 + b"\n" + b"1" + b"\t" * 38 + b"\n", "long.tsv:1: 41 columns instead of 40"),
        (1, "header.tsv", b"label" + b"\t" * 39 + b"\n" + GOOD, "header.tsv:1: label 'label' must be 0 or 1"),
        (1, "empty.tsv", b"", "empty.tsv: the log has no samples"),
        (1, "few.tsv", criteo_lines(10), "few.tsv: the log has 10 samples; a fit and its check need at least 1,024"),
        (1, "cut.gz", gzip.compress(GOOD)[:-100], "cut.gz: cannot be decompressed"),
        (1, "plain.gz", GOOD, "plain.gz: cannot be decompressed"),
        (2, "log.csv", GOOD, "log.csv: unknown extension '.csv'"),
        (2, "log.csv.gz", GOOD, "unknown extension '.csv'"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(
    tmp_path: Path, code: int, name: str, content: bytes | None, text: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(code, text, "ids", str(tmp_path / name), "-o", str(tmp_path / "ids.toml"))
    assert not (tmp_path / "ids.toml").exists()


def test_the_log_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_bytes(GOOD)
    refused(2, "names a file of the log", "ids", str(tmp_path / "log.tsv"), "-o", str(tmp_path / "log.tsv"))
    assert (tmp_path / "log.tsv").read_bytes() == GOOD


def test_files_of_two_formats_are_refused(tmp_path: Path) -> None:
    logs = [tmp_path / "a.tsv", tmp_path / "b.parquet"]
    for log in logs:
        log.write_bytes(GOOD)
    refused(2, "must have one format", "ids", *map(str, logs), "-o", str(tmp_path / "ids.toml"))


def test_without_pyarrow_parquet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "log.parquet").write_bytes(b"PAR1")
    refused(2, "pip install pyarrow", "ids", str(tmp_path / "log.parquet"), "-o", str(tmp_path / "ids.toml"))


def test_parquet_with_lists(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(2)
    users, clicks = rng.integers(0, 500, 3000), [rng.integers(0, 40, n).tolist() for n in rng.integers(0, 5, 3000)]
    words = [None if n == 0 else f"a rather long word {n}" for n in rng.integers(0, 30, 3000)]
    columns = {"label": users % 2, "user": users, "clicks": clicks, "word": words, "price": users / 7}
    log = tmp_path / "log.parquet"
    parquet.write_table(arrow.table({**columns, "shop": arrow.array(words).dictionary_encode()}), log)
    code, out, err = run("ids", str(log), "-o", str(tmp_path / "ids.toml"), "--json")
    assert (code, err) == (0, "")
    tables = {table["name"]: table for table in json.loads(out)["tables"]}
    assert {name: table["different_ids"] for name, table in tables.items()} == {
        "user": len(set(users.tolist())),
        "clicks": 40,
        "word": 30,
        "shop": 30,
    }
    assert tables["clicks"]["ids"] == pytest.approx(sum(map(len, clicks)) / 3000, rel=1e-5)
    log.write_bytes(b"not Parquet")
    (tmp_path / "ids.toml").unlink()
    refused(1, "not Parquet that can be read", "ids", str(log), "-o", str(tmp_path / "ids.toml"))
