"""Why steps changed: the inputs that changed, those first that concern what bounds the changed ops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dessim.golden.changes import StepChange
from dessim.golden.facts import GPU, LATENCY, LINKS, TRANSPORT
from dessim.results.critical_path import HOST
from dessim.results.labels import bound_label, link_pair
from dessim.sim.core.bounds import COMPUTE, CORES, FLOW_CAP, REDUCTION, SERVICE
from dessim.sim.core.bounds import LATENCY as LATENCY_BOUND

_PRESSES = 0.2
"""Share of the largest change by bound, below which a bound does not count as the cause."""
_MOST_LINES = 6
_INPUTS = ("cluster", "job", "question")
_NAMED = {"cluster": {f"{GPU}name": GPU, f"{TRANSPORT}name": TRANSPORT}, "job": {"model": ""}}
"""Facts that name a part, and the beginning of the keys of its numbers."""
_CONCERNS = {
    COMPUTE: (GPU,),
    HOST: (GPU,),
    CORES: (GPU,),
    LATENCY_BOUND: (LATENCY, TRANSPORT),
    FLOW_CAP: (f"{TRANSPORT}flow_rate",),
    REDUCTION: (f"{TRANSPORT}reduction_rate", GPU),
    SERVICE: (GPU,),
}
"""The facts of a cluster that set the seconds of a bound. A class of links is bound by its rate, in both directions."""


@dataclass(frozen=True, slots=True)
class FactChange:
    """A fact of `cluster`, `job` or `question` that is not what it was; empty where it was, or is, not stated."""

    of: str
    key: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.of}: {self._label()}: {self.now or 'not stated'}, was {self.before or 'not stated'}"

    def _label(self) -> str:
        for prefix, label in ((LINKS, "{}"), (LATENCY, "latency of {}")):
            if self.key.startswith(prefix):
                return label.format(bound_label(self.key.removeprefix(prefix)))
        return self.key


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of an answer: the `version` of dessim, and facts by key of question, job and cluster."""

    version: str
    question: Mapping[str, str]
    job: Mapping[str, str]
    cluster: Mapping[str, str]


def causes_of(changes: Sequence[StepChange], before: Inputs, now: Inputs) -> tuple[str, ...]:
    """Lines that say why steps changed, the likely cause first, and what has not changed."""
    facts = {name: (getattr(before, name), getattr(now, name)) for name in _INPUTS}
    changed = [fact for name, (was, is_now) in facts.items() for fact in _differences(name, was, is_now)]
    bounds = _pressing(changes)
    likely = [fact for fact in changed if _concerns(fact, bounds)]
    others = [fact for fact in changed if fact not in likely]
    if not likely:
        likely, others = others, []
    is_newer = now.version != before.version
    release = f"dessim {now.version}, was {before.version}"
    also = [str(fact) for fact in others]
    if likely:
        lines = [f"likely cause: {fact}" for fact in likely]
        also += [release] if is_newer else []
    elif is_newer:
        lines = [f"likely cause: {release}: see its CHANGELOG"]
    else:
        lines = [f"cause unknown: question, job, cluster and dessim {now.version} are as recorded; the code differs"]
    same = [name for name, (was, is_now) in facts.items() if was == is_now]
    same += [] if is_newer else [f"dessim {now.version}"]
    return (
        *_cut(lines, "likely causes"),
        *_cut([f"also changed: {what}" for what in also], "changes"),
        *([f"unchanged: {', '.join(same)}"] if same and changed else []),
    )


def _differences(of: str, before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[FactChange]:
    """The facts that differ. Another GPU, transport or model is named alone, without its numbers."""
    changed = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    others = tuple(prefix for name, prefix in _NAMED.get(of, {}).items() if name in changed)
    for key in changed:
        if key in _NAMED.get(of, {}) or not key.startswith(others):
            yield FactChange(of, key, before.get(key, ""), now.get(key, ""))


def _pressing(changes: Sequence[StepChange]) -> list[str]:
    """The bounds whose seconds changed most in the ops that explain the steps."""
    total: dict[str, float] = {}
    for op in (op for change in changes for op in change.ops):
        for bound, seconds in op.by_bound_s.items():
            total[bound] = total.get(bound, 0.0) + seconds
    most = max((abs(seconds) for seconds in total.values()), default=0.0)
    return [bound for bound, seconds in total.items() if most and abs(seconds) >= _PRESSES * most]


def _concerns(fact: FactChange, bounds: Sequence[str]) -> bool:
    """Whether a fact sets the seconds of one of `bounds`. Job and question set the sizes of all ops."""
    if fact.of != "cluster":
        return True
    if fact.key.startswith(LINKS):
        pair, _ = link_pair(fact.key.removeprefix(LINKS))
        return any(link_pair(bound)[0] == pair for bound in bounds)
    return any(fact.key.startswith(_CONCERNS.get(bound, ())) for bound in bounds)


def _cut(lines: list[str], what: str) -> list[str]:
    left = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], f"and {left} more {what}"] if left > 1 else lines
