"""Plain English, enforced: phrases that this project used to lean on must not return.

Scanned: the README, the changelog, `docs/`, the studies' pages and settings, and every docstring, comment and message
of `dessim`, `des_ref`, `studies` and `tests`. Not scanned: generated data and identifiers.
Run this file as a script to count the phrases of a tree: `python tests/architecture/test_words.py [ROOT]`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Folders and files that are still being rewritten. Empty at a release; add nothing here.
REWRITE_PENDING: dict[str, bool] = {}


@dataclass(frozen=True, slots=True)
class Idiom:
    """A phrase to avoid. `instead` says what to write; text that `allowed` matches around the phrase is fine."""

    name: str
    pattern: str
    instead: str
    allowed: str = r"(?!)"  # matches nothing


IDIOMS = (
    Idiom("so many", r"\bso many\b", "the number itself: `steps` steps, n ranks"),
    Idiom("nobody", r"\bnobody\b", "no rank, no one, or the passive voice"),
    Idiom("whoever", r"\bwhoever\b", "the rank that, the worker that"),
    Idiom("somebody", r"\b(some|any|every)body\b", "a rank, any rank, every rank"),
    Idiom("who comes", r"\bwho (comes|waits|sends)\b", "the rank that arrives, waits or sends"),
    Idiom(
        "way (a route)",
        r"\bways?\b",
        "route, path",
        r"(all the|both|half-|halfway|by the|on the|on its|this|that|either"
        r"|in (this|that|the same|any|a|some|one|another|no|the usual)) ?ways?"
        r"|the same way|ways? (to|of|in which|that|the)\b",
    ),
    Idiom("befall", r"\b(befall|befalls|befallen|befell)\b", "happens to, affects"),
    Idiom("told, tells", r"\b(told|tells)\b", "given, configured, set; says, shows, reports"),
    Idiom("comes about", r"\bcom(e|es|ing) about\b|\bcame about\b", "happens, results from"),
    Idiom("of itself", r"\bof itself\b", "by itself, unaided"),
    Idiom("of its own", r"\bof (its|their) own\b(?=\s*(?:[.,;:)]|$|and\b))", "its own X, a dedicated X"),
    Idiom("as long as it goes", r"\bas long as (it|they) go(es)?\b", "until it ends"),
    Idiom("fares", r"(?<!-)\bfare[sd]\b", "performs, behaves"),
    Idiom("stays (a noun)", r"\b(the|a|an|its|their|long|short|of) stays?\b", "the time in the queue, residence time"),
    Idiom("goes round", r"\b(go|goes|going|went) round\b", "cycles, takes turns, visits in turn"),
    Idiom("has its turn", r"\b(has|have|had|gets?|got) (its|their|a) turn\b", "is served in round-robin order"),
    Idiom("has them all", r"\b(has|have|had) them all\b", "has received every X"),
    Idiom("under way", r"\bunder ?way\b", "in flight, in progress"),
    Idiom("as one likes", r"\bas (one|you|they) likes?\b", "in any order, arbitrarily"),
    Idiom("in its stride", r"\bin (its|their) stride\b", "in steady state"),
    Idiom("beforehand", r"\bbeforehand\b", "in advance"),
    Idiom("alike", r"\balike\b", "identical, the same, equally"),
    Idiom("like servers", r"\blike servers\b|\bof like (rate|size|kind)s?\b", "identical servers"),
    Idiom("unlike rates", r"\bunlike (rates|ranks|sizes|links|hosts|servers|speeds)\b", "different rates"),
    Idiom("meanwhile", r"(?<!; )\b(?-i:meanwhile)\b", "while X runs, during X"),
    Idiom(
        "meets (contends)",
        r"\b(meets?|met)\b",
        "contends with, shares a link with, matches, satisfies",
        r"(is|are|was|were|be) met|(meets?|met) (the|a|its|every|no) (bounds?|targets?|aims?|criteri\w+|deadlines?)",
    ),
    Idiom("nor nothing", r"\bnor nothing\b", "neither A nor B"),
    Idiom("lets in", r"\blets? in\b", "admits, accepts"),
    Idiom("brings along", r"\bbr(ing|ings|ought) along\b", "contains, supplies, causes"),
    Idiom("wants a core", r"\bwants? (a|the|its|no) core\b|\bwant cores\b", "is runnable, competes for a core"),
    Idiom(
        "gives up",
        r"\b(give|gives|gave|given|giving) up\b",
        "releases, yields, forgoes",
        r"(give|gives|gave|given|giving) up\b[^.]{0,40}\b(after|timeout)\b|timeout[^.]{0,60}\bup\b",
    ),
    Idiom("not worth", r"\bnot worth\b", "costs more than it saves"),
    Idiom("at most so", r"\bat most so\b", "at most `n`"),
    Idiom(
        "is over (has ended)",
        r"\b(is|are|was|were|be|been) over\b(?=\s*(?:[.,;:)]|$|and\b|by\b|when\b|before\b|then\b|for\b|in\b))",
        "has finished, has ended",
    ),
    Idiom(
        "is there (exists)",
        r"\b(is|are|was|were) there\b",
        "exists, has arrived, is present",
        r"(is|are|was|were) there (a|an|any|no|some|to)\b",
    ),
    Idiom("look at (measure)", r"\blook(s|ed|ing)? at\b", "measure, sample, inspect, consider"),
)

# One search that finds a passage with any of the phrases: most passages have none. Where a word can begin is looked up
# once for all phrases.
_WORDS = "|".join(idiom.pattern.removeprefix(r"\b") for idiom in IDIOMS if idiom.pattern.startswith(r"\b"))
_OTHERS = [idiom.pattern for idiom in IDIOMS if not idiom.pattern.startswith(r"\b")]
_ANY_IDIOM = re.compile("|".join([rf"\b(?:{_WORDS})", *_OTHERS]), re.IGNORECASE)

# The project spells British. Library names and arguments (color, center, optimizer) are not prose and not listed.
_STEMS = (
    "behavior|neighbor|honor|favor|analyz|modeled|labeled|canceled|utilization|normaliz|recogniz|summariz|"
    "synchroniz|minimiz|maximiz|serializ|organiz|randomiz"
)
_AMERICAN = re.compile(rf"\b(?!unrecognized)\w*({_STEMS})\w*", re.IGNORECASE)
_OPENER = re.compile(r"(?:What|Who|Whose|Of) (?!course)[a-z`]")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of prose and where it starts."""

    path: Path
    line: int
    text: str


def prose_files(root: Path) -> Iterator[Path]:
    """Every file whose prose is scanned."""
    yield root / "README.md"
    yield root / "CHANGELOG.md"
    yield from sorted((root / "docs").rglob("*.md"))
    for folder, suffixes in (("topologies", (".md",)), ("studies", (".md", ".toml"))):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in suffixes:
                yield path
    for folder in ("dessim", "des_ref", "studies", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            if path.name != Path(__file__).name:
                yield path


def passages(path: Path) -> Iterator[Passage]:
    """The prose of a file: paragraphs of Markdown, comments, docstrings, and messages (strings with a space)."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        yield from _paragraphs(path, text)
    elif path.suffix == ".toml":
        for number, line in enumerate(text.splitlines(), 1):
            if "#" in line:
                yield Passage(path, number, line.partition("#")[2].strip())
    else:
        strings = [
            (node.lineno, node.value)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        if "#" in text:
            yield from _comments(path, text, strings_have_none=not any("#" in value for _, value in strings))
        yield from (Passage(path, line, value) for line, value in strings if " " in value.strip())


def _paragraphs(path: Path, text: str) -> Iterator[Passage]:
    start, lines = 1, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], 1):
        begins = re.match(r"\s*([-*#|]|\d+\.) ?", line) is not None
        if lines and (not line.strip() or begins):
            yield Passage(path, start, "\n".join(lines))
            lines = []
        if line.strip():
            start = start if lines else number
            lines.append(line)


def _comments(path: Path, text: str, strings_have_none: bool) -> Iterator[Passage]:
    """Comments, with consecutive comment lines joined. `strings_have_none` says that every # begins a comment."""
    if strings_have_none:
        lines = enumerate(text.splitlines(), 1)
        found = [(number, comment) for number, line in lines for _, mark, comment in [line.partition("#")] if mark]
    else:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        found = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    start, previous, joined = 0, -1, list[str]()
    for number, comment in found:
        if joined and number != previous + 1:
            yield Passage(path, start, " ".join(joined))
            joined = []
        start = start if joined else number
        previous = number
        joined.append(comment.lstrip("# "))
    if joined:
        yield Passage(path, start, " ".join(joined))


def idioms_in(passage: Passage) -> Iterator[tuple[Idiom, str]]:
    """Each banned phrase of a passage, with a few words around it."""
    text = " ".join(passage.text.split())
    if not _ANY_IDIOM.search(text):
        return
    for idiom in IDIOMS:
        found = list(re.finditer(idiom.pattern, text, re.IGNORECASE))
        spared = [match.span() for match in re.finditer(idiom.allowed, text, re.IGNORECASE)] if found else []
        for match in found:
            if not any(first <= match.start() and match.end() <= last for first, last in spared):
                yield idiom, text[max(match.start() - 30, 0) : match.end() + 30]


def opener_of(passage: Passage) -> str | None:
    """The passage's first sentence where it is a noun phrase such as "What links carried."; a question is fine."""
    text = " ".join(passage.text.split()).lstrip("-*# ")
    if not _OPENER.match(text):
        return None
    sentence = re.split(r"(?<=[.?!:;])\s", text, maxsplit=1)[0]
    return None if sentence.endswith("?") else sentence


def american_words_in(passage: Passage) -> Iterator[str]:
    lower = passage.text.lower()
    if any(stem in lower for stem in _STEMS.split("|")):
        yield from (word[0] for word in _AMERICAN.finditer(passage.text))


def is_heading(passage: Passage) -> bool:
    return passage.path.suffix == ".md" and passage.text.lstrip().startswith(("#", "|"))


def _is_pending(path: Path) -> bool:
    relative = path.relative_to(ROOT).as_posix()
    return any(relative == entry or relative.startswith(f"{entry}/") for entry in REWRITE_PENDING)


def _scanned() -> list[Path]:
    return [path for path in prose_files(ROOT) if not _is_pending(path)]


@pytest.mark.parametrize("path", _scanned(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_prose_is_plain_english(path: Path) -> None:
    problems = []
    for passage in passages(path):
        where = f"{path.relative_to(ROOT)}:{passage.line}"
        for idiom, around in idioms_in(passage):
            problems.append(f'{where}: "...{around}...": avoid "{idiom.name}"; write: {idiom.instead}')
        sentence = opener_of(passage)
        if sentence and not is_heading(passage):
            problems.append(f'{where}: "{sentence[:60]}": name the thing first, then say what it does')
        problems += [f"{where}: {word}: write British spelling" for word in american_words_in(passage)]
    assert not problems, "\n".join(problems)


def count(root: Path) -> Counter[str]:
    """Occurrences of each idiom, and of sentences that open with What, Who, Whose or Of, in a tree."""
    found = Counter[str]()
    for path in prose_files(root):
        for passage in passages(path):
            found.update(idiom.name for idiom, _ in idioms_in(passage))
            found["What/Who/Whose/Of ..."] += opener_of(passage) is not None and not is_heading(passage)
    return found


if __name__ == "__main__":
    counted = count(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
    for name, times in counted.most_common():
        sys.stdout.write(f"{times:5} {name}\n")
