"""Commands print their recorded results: floats to 1e-12, everything else exactly.

Record an intended difference anew with `python tests/golden/record.py NAME`. List a renamed word in renamed.toml.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.comparing import differences, dumped, reduced, renamed
from tests.golden.record import check
from tests.golden.running import COMMANDS, PAGE, RESULTS, ROOT, Command, outcome

_MAX_SHOWN = 30


def marked(command: Command) -> Any:
    marks = [mark for mark, wanted in (("torch", command.trains), ("slow", command.slow)) if wanted]
    return pytest.param(command, id=command.name, marks=[getattr(pytest.mark, mark) for mark in marks])


@pytest.mark.parametrize("command", [marked(command) for command in COMMANDS])
def test_a_command_prints_its_recorded_result(command: Command) -> None:
    if command.trains:
        pytest.importorskip("torch", reason="the trainer needs the [train] extra")
    different = check(command)
    more = [f"and {len(different) - _MAX_SHOWN} more"] if len(different) > _MAX_SHOWN else []
    how = (
        f"{len(different)} differences in tests/golden/results/{command.name}.json from: {command.run}",
        *different[:_MAX_SHOWN],
        *more,
        f"if intended: python tests/golden/record.py {command.name}; if a word was renamed: renamed.toml",
    )
    assert not different, "\n".join(how)


def test_every_result_has_a_command_and_contains_no_path() -> None:
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
    assert {path.stem for path in RESULTS.iterdir()} == {command.name for command in COMMANDS}
    for path in RESULTS.iterdir():
        text = path.read_text("utf-8")
        assert str(ROOT) not in text and "/tmp/" not in text, path.name


def test_results_are_small() -> None:
    assert sum(path.stat().st_size for path in RESULTS.iterdir()) < 1_500_000


def test_lists_are_complete() -> None:
    from dessim.collectives.algorithms import ALGORITHMS
    from dessim.workload.strategies import STRATEGIES

    lists = PAGE["lists"]
    listed = outcome(next(command for command in COMMANDS if command.name == "topo-list"))
    assert lists["clusters"] == [row["name"] for row in listed["printed"]["topologies"]]
    assert lists["strategies"] == list(STRATEGIES)
    assert lists["models"] == sorted(path.stem for path in (ROOT / "dessim/workload/models").glob("*.toml"))
    for op, algorithms in ALGORITHMS.items():
        assert len(algorithms) == 1 or lists[str(op)] == list(algorithms)


def test_differences_name_the_json_path() -> None:
    old = {"rows": [{"time_s": 1.0, "bytes": 8, "by": "nic"}, {"time_s": None}], "gone": True, "note": "in words"}
    new = {"rows": [{"time_s": 1.0 + 1e-11, "bytes": 9, "by": "link"}, {"time_s": 0.0}], "fresh": 1, "note": "else"}
    assert list(differences(old, old)) == []
    assert list(differences(old, new, prose=("note",))) == [
        "rows[0].time_s: 1.0 before, 1.00000000001 now (1.0e-11 of it)",
        "rows[0].bytes: 8 before, 9 now",
        'rows[0].by: "nic" before, "link" now',
        "rows[1].time_s: null before, 0.0 now",
        "gone: gone; it was true",
        "fresh: new; it is 1",
    ]
    assert list(differences([1.0, 2], [1.0 + 1e-13])) == [": 2 entries before, 1 now"]
    assert list(differences({"note": ["", "a"]}, {"note": ["b", "c"]}, prose=("note",))) == [
        'note[0]: "" before, "b" now'
    ]
    # Types must agree: neither int and float nor bool and int are interchangeable.
    assert len(list(differences([8, 1], [8.0, True]))) == 2


def test_long_lists_keep_their_ends_and_sums() -> None:
    rows = [{"name": f"op{n}", "s": 0.1, "by": {"nic": n}, "of": [1, 2]} for n in range(51)]
    assert reduced(rows[:50]) == rows[:50]
    assert reduced({"rows": rows}) == {
        "rows": {
            "length": 51,
            "first": rows[:3],
            "last": rows[-3:],
            "sums": {"name": None, "s": pytest.approx(5.1, rel=1e-15), "by": {"nic": 1275}, "of": 153},
        }
    }


def test_renamed_words_are_keys_or_whole_values() -> None:
    old = {"nic_up": "nic_up", "what": ["nic_up", "a nic_up"]}
    assert renamed(old, {"nic_up": "nic_out"}, {}) == {"nic_out": "nic_up", "what": ["nic_up", "a nic_up"]}
    assert renamed(old, {}, {"nic_up": "sending"}) == {"nic_up": "sending", "what": ["sending", "a nic_up"]}


def test_stored_text_parses_to_the_same_value() -> None:
    value = {"a": [], "b": {}, "c": [1.1e-300, "[x]"], "d": [[0.1 + 0.2], {"é": None}], "e": {"f": True}}
    assert json.loads(dumped(value)) == value and list(json.loads(dumped(value))) == list(value)
