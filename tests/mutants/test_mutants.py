"""The list of deliberate faults: every one still fits the sources, and two are run. `make mutants` runs all."""

from __future__ import annotations

import sys

import pytest

from tests.forked import run_forked
from tests.mutants.mutants import ROOT, Mutant, WrongMutant, load

MUTANTS = load()


def test_there_are_at_least_50_different_faults() -> None:
    assert len(MUTANTS) >= 50 and len({m.name for m in MUTANTS}) == len(MUTANTS)
    assert len({(m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS)
    assert f"{len(MUTANTS)} faults" in (ROOT / "docs" / "certificate.md").read_text("utf-8")


@pytest.mark.parametrize("mutant", MUTANTS, ids=[m.name for m in MUTANTS])
def test_it_fits_the_sources(mutant: Mutant) -> None:
    mutated = mutant.text(ROOT)
    compile(mutated, mutant.file, "exec")
    assert mutant.why.endswith(".") and (mutant.certify is None) != (mutant.test is None)
    if mutant.test is not None:
        file, _, name = mutant.test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text("utf-8")


def test_a_fault_that_no_longer_fits_is_an_error() -> None:
    with pytest.raises(WrongMutant, match=r"occurs 0 times in des_ref/metrics\.py"):
        Mutant("gone", "metrics.py", "no such text", "", "").text(ROOT)


@pytest.mark.slow
@pytest.mark.torch
def test_the_certificate_and_a_test_notice_a_fault() -> None:
    """One fault of the loss, which parameters do not show, and one that only a test can show."""
    pytest.importorskip("torch", reason="the trainer needs the [train] extra")
    names = ["DES reports twice the loss", "equal scores count as wrongly ordered"]
    done = run_forked([sys.executable, "-m", "tests.mutants.run", "--no-baseline", *names], ROOT)
    assert done.returncode == 0 and "caught 2 of 2 faults" in done.stdout, done.stdout + done.stderr
