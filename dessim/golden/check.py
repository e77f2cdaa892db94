"""Asks the question of a golden file again, and says what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dessim.commands.questions.question import Question
from dessim.errors import FileError
from dessim.golden.causes import causes_of
from dessim.golden.changes import StepChange, changes_of, kept, plain
from dessim.golden.file import Golden, inputs_of, read_golden, rows_of
from dessim.sim.progress import Progress
from dessim.units import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The changes since a golden file was recorded.

    `steps` were compared within the relative `tolerance`; `changes` are those that differ, and `causes` lines that say
    why, the likely cause first. `str` gives all of it as text.
    """

    path: str
    tolerance: float
    steps: int
    changes: tuple[StepChange, ...]
    causes: tuple[str, ...]

    @property
    def is_unchanged(self) -> bool:
        """Whether every step is within the tolerance."""
        return not self.changes

    @property
    def summary(self) -> str:
        """One line: how many steps changed."""
        if self.is_unchanged:
            return f"{self.path}: ok, {counted(self.steps, 'step')} unchanged within {self.tolerance:g}"
        return f"{self.path}: {len(self.changes)} of {self.steps} steps changed by more than {self.tolerance:g}"

    def __str__(self) -> str:
        return "\n".join([self.summary, *map(str, self.changes), *self.causes])

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {
            "path": self.path,
            "ok": self.is_unchanged,
            "tolerance": self.tolerance,
            "steps": self.steps,
            "changes": [plain(change) for change in self.changes],
            "causes": list(self.causes),
        }


def read_askable(path: str | Path) -> Golden:
    """A golden file whose question can be asked again. Raises FileError for another file."""
    golden = read_golden(path)
    if golden.question is None:
        raise FileError(
            golden.path, "request", "was recorded from Python objects; run the Python test that compares with it"
        )
    return golden


def ask_again(golden: Golden, progress: Progress | None = None) -> tuple[Question, dict[str, Any]]:
    """The question of a golden file (`read_askable`), and the answer of today. Raises what the question raises."""
    assert golden.question is not None
    question = golden.question.load()
    return question, question.answer(progress)


def compared(
    golden: Golden, question: Question, answer: Mapping[str, Any], tolerance: float | None = None
) -> CheckResult:
    """An answer against a golden file, within its tolerance or another one."""
    allowed = golden.tolerance if tolerance is None else tolerance
    rows = [kept(row) for row in rows_of(answer)]
    changes = changes_of(golden.rows, rows, allowed)
    return CheckResult(
        path=str(golden.path),
        tolerance=allowed,
        steps=len(golden.rows),
        changes=changes,
        causes=causes_of(changes, golden.inputs, inputs_of(question)) if changes else (),
    )
