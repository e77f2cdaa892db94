"""Parts of a step that wait for messages take turns."""

from __future__ import annotations

from typing import Any

from des_ref.strategies.in_turn import Part, in_turn, run_alone


class Message:
    """A message in flight; the events say when it was waited for."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self._events = events

    def wait(self) -> None:
        self._events.append(f"wait {self.name}")


def part(name: str, messages: int, events: list[str]) -> Part[str]:
    for number in range(messages):
        events.append(f"send {name}{number}")
        handle: Any = Message(f"{name}{number}", events)
        yield handle
    events.append(f"end {name}")
    return name


def test_all_send_before_the_first_waits_and_wait_in_the_order_of_sending() -> None:
    events: list[str] = []
    assert in_turn([part("a", 2, events), part("b", 0, events), part("c", 1, events)]) == ["a", "b", "c"]
    sent = ["send a0", "end b", "send c0"]
    assert events == [*sent, "wait a0", "send a1", "wait c0", "end c", "wait a1", "end a"]


def test_a_part_alone_waits_at_once() -> None:
    events: list[str] = []
    assert run_alone(part("a", 2, events)) == "a"
    assert events == ["send a0", "wait a0", "send a1", "wait a1", "end a"]
