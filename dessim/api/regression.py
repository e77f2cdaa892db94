"""A golden file holds a question, its answer, and the inputs behind it: record it once, and learn later what changed.

    dessim project --model deepfm --strategy table_wise --cluster mine.toml --gpus 64 --golden step.json
    dessim check step.json                    # exit code 3, the op and the likely cause, when a step differs
    dessim check step.json --within 1%        # allows that much; the file's own tolerance can be edited, too
    dessim check step.json --record           # records what changed as intended

In your own pytest, where `step.json` lies beside the test:

    from pathlib import Path

    import dessim

    def test_the_step_of_our_job() -> None:
        dessim.assert_unchanged(Path(__file__).with_name("step.json"))

It fails with the text that `check` shows below. Files that the question names, such as `mine.toml`, are found relative
to the golden file. A file cannot name Python objects. If a question has some, the test itself asks it:

    def test_half_the_spines() -> None:
        cluster = dessim.load_cluster("mine.toml").with_links([("spine0", 0.5)])
        dessim.assert_unchanged("half.json", dessim.project("deepfm", cluster, "table_wise", 64))

after `dessim.record("half.json", result)` was called once.
"""

from __future__ import annotations

from pathlib import Path

from dessim.commands.questions.question import Question
from dessim.errors import UsageError
from dessim.golden.check import CheckResult, ask_again, compared, read_askable
from dessim.golden.file import TOLERANCE, read_golden, write_golden
from dessim.results.flat.steps import ProjectResult, ReplayResult
from dessim.sim.progress import Progress


def record(path: str | Path, result: ProjectResult | ReplayResult, tolerance: float = TOLERANCE) -> None:
    """Write a golden file: a result, the question it answers, and the inputs behind it.

    Where job and cluster were named rather than given as objects, `check` can ask the question again. `tolerance` is
    relative, and is written to the file. Raises UsageError for a result that did not come from `project` or `replay`.
    """
    _check_tolerance(tolerance)
    write_golden(path, _question(result), result.to_json(), tolerance)


def check(
    path: str | Path,
    result: ProjectResult | ReplayResult | None = None,
    *,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """Compare with a golden file: `dessim check`.

    `result` is today's answer; without it, the question in the file is asked again. `tolerance` replaces the one
    in the file. Raises FileError, what the question raises, and UsageError.

    >>> import dessim, tempfile, pathlib
    >>> golden = pathlib.Path(tempfile.mkdtemp(), "step.json")
    >>> dessim.record(golden, dessim.project("deepfm", "one-switch_16", "table_wise", 16))
    >>> dessim.check(golden).is_unchanged
    True
    >>> cluster = dessim.load_cluster("one-switch_16").with_links([("switch0", 0.5)])
    >>> print(dessim.check(golden, dessim.project("deepfm", cluster, "table_wise", 16)))
    /.../step.json: 1 of 1 steps changed by more than 1e-06
    table_wise on 16 GPUs: step 1.993 ms, was 1.445 ms (+37.9 %), bound by NIC, sending, before by compute
      pooled (all_to_all): 534.8 us of the step, was 269.4 us, bound by NIC, sending
      pooled_grad (all_to_all): 534.8 us of the step, was 269.4 us, bound by NIC, sending
      dense_grad (all_reduce): 187.4 us of the step, was not on the critical path, bound by NIC, sending
      update_rows: no longer on the critical path, was 120 us of the step, bound by compute
    likely cause: cluster: NIC, sending: 16 at 25 GB/s, was 16 at 50 GB/s
    likely cause: cluster: NIC, receiving: 16 at 25 GB/s, was 16 at 50 GB/s
    unchanged: job, question, dessim ...
    """
    if tolerance is not None:
        _check_tolerance(tolerance)
    if result is None:
        golden = read_askable(path)
        return compared(golden, *ask_again(golden, progress), tolerance)
    question = _question(result)
    return compared(read_golden(path), question, result.to_json(), tolerance)


def assert_unchanged(
    path: str | Path, result: ProjectResult | ReplayResult | None = None, *, tolerance: float | None = None
) -> None:
    """Raise AssertionError, with what changed and why, if `check` finds a change; for tests."""
    checked = check(path, result, tolerance=tolerance)
    if not checked.is_unchanged:
        raise AssertionError(str(checked))


def _question(result: ProjectResult | ReplayResult) -> Question:
    if not isinstance(result, ProjectResult | ReplayResult):
        raise UsageError(f"give a result of dessim.project or dessim.replay, not of type {type(result).__name__}")
    question = result._question
    if not isinstance(question, Question):
        raise UsageError("the result was read from JSON; give one that dessim.project or dessim.replay returned")
    return question


def _check_tolerance(tolerance: float) -> None:
    if not isinstance(tolerance, int | float) or not 0 <= tolerance <= 1:
        raise UsageError(f"tolerance {tolerance!r}: a share from 0 to 1, such as 0.01")
