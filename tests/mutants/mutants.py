"""Deliberate faults of the trainer: where each is, and the check that must notice it.

A mutant replaces a text that occurs exactly once in a file of des_ref. It is applied to a copy of the sources, never to
the working tree. Its check is a certificate of small cases, with the options that the mutant states, or a test.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_CERTIFICATE = {
    "model": "deepfm_ml100k",
    "placement": "hash",
    "optimizer": "rowwise_adagrad",
    "ranks": "2",
    "steps": 3,
}


class WrongMutant(Exception):
    """A mutant that does not fit the sources."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault.

    name       what is wrong, in a few words
    file       path below des_ref
    old, new   the text that occurs once, and what replaces it
    why        the effect of the fault on a user
    certify    options of the certificate that notices it, beside those of _CERTIFICATE; None: `test` notices it
    test       pytest's name of the test, or of one of its cases: `file::name[case]`
    hidden_at  numbers of ranks at which the same certificate passes, because the fault cannot show there
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    certify: dict[str, Any] | None = None
    test: str | None = None
    hidden_at: tuple[int, ...] = field(default=())

    @property
    def check(self) -> tuple[str, ...]:
        """The module to run and its arguments."""
        if self.test is not None:
            return ("pytest", "-q", "-x", "-p", "no:cacheprovider", self.test)
        return self._certificate(self.certify or {})

    def hidden_checks(self) -> list[tuple[str, ...]]:
        """The checks that must pass in spite of the fault."""
        return [self._certificate({**(self.certify or {}), "ranks": str(ranks)}) for ranks in self.hidden_at]

    def _certificate(self, options: dict[str, Any]) -> tuple[str, ...]:
        pairs = [(f"--{key}", str(value)) for key, value in (_CERTIFICATE | options).items() if value != ""]
        return ("des_ref.certify", "--all", *(part for pair in pairs for part in pair))

    def text(self, sources: Path) -> str:
        """The mutated file. Raises WrongMutant if the old text does not occur exactly once."""
        whole = (sources / "des_ref" / self.file).read_text("utf-8")
        if (times := whole.count(self.old)) != 1:
            raise WrongMutant(f"{self.name!r}: its old text occurs {times} times in des_ref/{self.file}, not once")
        return whole.replace(self.old, self.new)


def load() -> list[Mutant]:
    """All mutants, by the names of their files."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        entries = tomllib.loads(path.read_text("utf-8"))["mutant"]
        found += [Mutant(**entry | {"hidden_at": tuple(entry.get("hidden_at", ()))}) for entry in entries]
    return found


class Sandbox:
    """A copy of the trainer and its tests at `root` in `folder`, to which one mutant at a time is applied."""

    def __init__(self, folder: Path, root: Path = ROOT) -> None:
        self.folder = folder
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / "des_ref", folder / "des_ref", ignore=skip)
        shutil.copytree(root / "tests" / "des_ref", folder / "tests" / "des_ref", ignore=skip)
        for name in ("tests/__init__.py", "tests/conftest.py", "tests/forked.py", "pyproject.toml"):
            shutil.copy(root / name, folder / name)
        (folder / "dessim").symlink_to(root / "dessim")
        (folder / "topologies").symlink_to(root / "topologies")
        # Python takes compiled code for current if the time, in whole seconds, and the size are those of the source.
        self._times = count(1_000_000_000)

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """Apply a mutant for a while. Raises WrongMutant."""
        mutated = mutant.text(self.folder)
        original = (self.folder / "des_ref" / mutant.file).read_text("utf-8")
        self._write(mutant.file, mutated)
        try:
            yield
        finally:
            self._write(mutant.file, original)

    def _write(self, file: str, text: str) -> None:
        path = self.folder / "des_ref" / file
        path.write_text(text, "utf-8")
        time = next(self._times)
        os.utime(path, (time, time))
