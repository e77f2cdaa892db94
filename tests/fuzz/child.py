"""The process that fuzzes one format with one engine. `python -m tests.fuzz.child FOLDER` reads FOLDER/job.json.

FOLDER/counts.json has the counts so far, and the modification time of FOLDER/beat is that of the last input.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.catalogue import format_of
from tests.fuzz.kept import keep, shrunk
from tests.fuzz.watch import READ, Verdict, judge, limit_memory

_WRITE_EVERY_S = 1.0
_MOST_BYTES = 1 << 20
_KEPT = 300
_BATCH = 500
_SEEDS_SHARE = 0.3
_BYTES_SHARE = 0.15
"""The share of libFuzzer's own mutations, which know the constants that the code compares with."""


class Session:
    """Runs inputs of a format, counts them, and keeps findings."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.format = format_of(job["format"])
        self.seeds = list(self.format.seeds())
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self._out = Path(job["out"])
        self._input = folder / f"input{self.format.suffix}"
        self._beat = folder / "beat"
        self._known = {(kind, where) for kind, where in job["known"]}
        self._runs = job["runs"] or sys.maxsize
        self._written = 0.0
        with contextlib.suppress(Exception):  # what is built once is no hang, and no memory, of the first input
            self._work(min(self.seeds, key=len))
        limit_memory()
        self._began = time.monotonic()
        self._ends = self._began + job["seconds"]

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._ends or self.counts["inputs"] >= self._runs

    def _work(self, data: bytes, is_used: bool = True) -> None:
        self._input.write_bytes(data)
        self.format.run(self._input, is_used)

    def run(self, data: bytes) -> Verdict:
        """Run one input."""
        now = time.monotonic()
        if now - self._written > _WRITE_EVERY_S:
            self.write()
            self._written = now
        is_used = zlib.crc32(data) % self.format.use_every == 0
        verdict = judge(lambda: self._work(data, is_used))
        self.counts["inputs"] += 1
        self.counts["findings" if verdict.is_finding else verdict.kind] += 0 if verdict.is_finding else 1
        return verdict

    def is_new(self, verdict: Verdict) -> bool:
        return verdict.is_finding and (verdict.kind, verdict.where) not in self._known

    def keep(self, data: bytes, verdict: Verdict) -> None:
        """Keep a finding that is not known yet, made smaller if it is quick to run."""
        self._known.add((verdict.kind, verdict.where))
        self.counts["findings"] += 1
        if verdict.kind not in ("Hang", "MemoryError"):
            data = shrunk(data, lambda part: judge(lambda: self._work(part))[:2] == verdict[:2])
        path = keep(self._out, self.format.name, data, verdict)
        print(f"FINDING {path}\n{verdict.kind} {verdict.where}\n{verdict.detail}", flush=True)
        self.write()

    def write(self) -> None:
        self._beat.touch()
        counts = self.counts | {"milliseconds": round(1000 * (time.monotonic() - self._began))}
        text = json.dumps({"counts": counts, "known": sorted(self._known)})
        draft = self._folder / "counts.tmp"
        draft.write_text(text)
        draft.replace(self._folder / "counts.json")


def plain(session: Session, seed: int) -> None:
    """Mutate seeds, and inputs that were read."""
    rng = random.Random(seed)
    corpus = list(session.seeds)
    while not session.is_over:
        data = session.format.mutate(rng.choice(corpus), rng, session.seeds)[:_MOST_BYTES]
        verdict = session.run(data)
        if session.is_new(verdict):
            session.keep(data, verdict)
        elif verdict.kind == READ and rng.random() < 0.1:
            corpus[len(session.seeds) + _KEPT :] = []
            corpus.insert(len(session.seeds), data)


def with_hypothesis(session: Session, seed: int) -> None:
    """Let Hypothesis choose the mutations; it shrinks those of a finding."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st
    from hypothesis.errors import Flaky

    last: list[tuple[bytes, Verdict]] = []

    class Found(Exception):
        pass

    batch = 0
    while not session.is_over:

        @seeded(seed + batch)
        @settings(
            max_examples=_BATCH,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )
        @given(st.sampled_from(session.seeds), st.randoms(use_true_random=False))
        def example(data: bytes, rng: random.Random) -> None:
            if session.is_over:
                return
            mutated = session.format.mutate(data, rng, session.seeds)[:_MOST_BYTES]
            verdict = session.run(mutated)
            if session.is_new(verdict) and (not last or verdict[:2] == last[0][1][:2]):
                last[:] = [(mutated, verdict)]
                raise Found

        last.clear()
        with contextlib.suppress(Found, Flaky):  # what is new, and the end of the time, change in the meantime
            example()
        if last:
            session.keep(*last[0])
        batch += 1


def guided(session: Session, seed: int, folder: Path) -> None:
    """Let libFuzzer choose among inputs by the code that they reach. Never returns."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(session.seeds):
        (corpus / str(number)).write_bytes(data)

    def run(data: bytes) -> None:
        if session.is_over:
            session.write()
            sys.stdout.flush()
            os._exit(0)
        verdict = session.run(data)
        if session.is_new(verdict):
            session.keep(data, verdict)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < _BYTES_SHARE:
            return bytes(atheris.Mutate(data, most))
        if rng.random() < _SEEDS_SHARE:  # most of the corpus is refused early: what is behind is reached from a seed
            data = rng.choice(session.seeds)
        return session.format.mutate(data, rng, session.seeds)[:most]

    words = ["fuzz", str(corpus), f"-seed={seed}", f"-max_len={_MOST_BYTES}", "-len_control=0"]
    words += ["-timeout=86400", "-rss_limit_mb=0", "-verbosity=0", "-detect_leaks=0"]
    atheris.Setup(words, run, custom_mutator=mutate, internal_libfuzzer=True)
    atheris.Fuzz()


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    if job["engine"] == "atheris":
        import atheris

        with atheris.instrument_imports(include=["dessim", "des_ref"]):
            format_of(job["format"])
    session = Session(folder, job)
    session.write()
    if job["engine"] == "atheris":
        guided(session, job["seed"], folder)
    elif job["engine"] == "hypothesis":
        with_hypothesis(session, job["seed"])
    else:
        plain(session, job["seed"])
    session.write()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
