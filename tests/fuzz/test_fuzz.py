"""Findings of the fuzzer stay mended, every format's seeds are read, and mutations are read or refused in one line."""

from __future__ import annotations

import random
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dessim.errors import ClusterError, DessimError, PhysicsError, one_line
from tests.fuzz.catalogue import MODULES, NAMES, format_of
from tests.fuzz.kept import FINDINGS, shrunk
from tests.fuzz.mutate import mutated_json, mutated_toml, toml_text
from tests.fuzz.watch import READ, REFUSED, judge

KEPT = sorted(path for path in FINDINGS.rglob("*") if path.is_file())
TOO_SHORT = ("clicks",)
"""Formats whose seeds are refused after they have been read whole: a fit needs a longer log, which takes longer."""


@pytest.fixture(autouse=True, scope="module")
def _torch_for_formats_of_the_trainer() -> Iterator[None]:
    pytest.importorskip("torch", reason="formats of the trainer need the [train] extra")
    yield
    from tests.fuzz import trainer

    trainer.leave()  # a process can join one group at a time, and later tests of this one do


def ends(name: str, data: bytes, deep: bool = True) -> str:
    """How an input of a format ends: READ or REFUSED; fails with the traceback of a finding."""
    each = format_of(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"input{each.suffix}")
        path.write_bytes(data)
        verdict = judge(lambda: each.run(path, deep))
    assert not verdict.is_finding, f"{verdict.kind} in {verdict.where}\n{verdict.detail}"
    return verdict.kind


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.stem}"[:80])
def test_what_the_fuzzer_found_stays_mended(path: Path) -> None:
    ends(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_read_and_mutations_end_well(name: str) -> None:
    each = format_of(name)
    seeds = list(each.seeds())
    first = min(seeds, key=len)
    assert ends(name, first) == (REFUSED if name in TOO_SHORT else READ)

    @settings(max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def mutations(rng: random.Random) -> None:
        ends(name, each.mutate(first, rng, seeds), deep=False)

    mutations()


def test_every_format_is_listed() -> None:
    for module, names in MODULES.items():
        assert tuple(each.name for each in import_module(f"tests.fuzz.{module}").FORMATS) == names


def test_mutations_keep_files_readable_as_toml_or_json_in_most_cases() -> None:
    seeds = list(format_of("model").seeds())
    rng = random.Random(3)

    def is_toml(data: bytes) -> bool:
        try:
            return isinstance(tomllib.loads(data.decode()), dict)
        except (ValueError, RecursionError):
            return False

    good = [is_toml(mutated_toml(seeds[0], rng, seeds)) for _ in range(100)]
    assert 60 < sum(good) < 100
    tree = tomllib.loads(seeds[0].decode())
    assert tomllib.loads(toml_text(tree)) == tree
    assert len({mutated_json(b'{"a": 1}', rng, ()) for _ in range(100)}) > 40


def test_integers_too_large_for_a_float_are_mutated_too() -> None:
    rng = random.Random(3)
    huge = b'{"a": 1%s}' % (b"0" * 400)
    assert len({mutated_json(huge, rng, ()) for _ in range(100)}) > 20


def test_what_is_no_finding_and_what_is() -> None:
    def fails(error: BaseException) -> str:
        def work() -> None:
            raise error

        return judge(work).kind

    assert fails(ClusterError("a.toml", "node", "is wrong")) == fails(OSError(28, "No space left")) == REFUSED
    assert fails(DessimError("a" * 100_000)) == REFUSED
    assert fails(DessimError("")) == "a message of too many letters or of none"
    assert fails(KeyError("x")) == "KeyError" and fails(PhysicsError("bytes")) == "PhysicsError"
    assert fails(RecursionError()) == "RecursionError" and fails(MemoryError()) == "MemoryError"
    assert judge(lambda: None).kind == READ


def test_a_loop_without_end_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.watch.LIMIT_S", 0.05)

    def work() -> None:
        while True:
            pass

    assert judge(work).kind == "Hang"


def test_findings_are_made_smaller() -> None:
    lines = b"".join(b"line %d\n" % number for number in range(40)) + b"the bug\n"
    assert shrunk(lines, lambda data: b"bug" in data) == b"bug"


def test_long_messages_lose_their_middle() -> None:
    line = one_line(f"a.toml: {'x' * 5000}\n: write less")
    assert len(line) < 2100 and line.startswith("a.toml: xx") and line.endswith("xx : write less")
    assert "[3,021 characters left out]" in line
