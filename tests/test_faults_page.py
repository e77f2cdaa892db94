"""docs/faults.md: its links exist, its examples agree with its commands, bad files get a one-line error."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "faults.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^    \$ dessim (.+)$", PAGE, re.MULTILINE)]


@pytest.fixture(autouse=True)
def _in_repository_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) > 8
    for target in links:
        assert (ROOT / "docs" / target).exists(), target


def test_collective_times_agree_with_the_page() -> None:
    built, faulty = (json.loads(run(*words)) for words in COMMANDS if words[0] == "collective")
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|$", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == ["time_s", "bound_by"]
    shown = {key: texts for key, *texts in rows}
    assert [built["bound_by"], faulty["bound_by"]] == shown["bound_by"]
    assert [built["time_s"], faulty["time_s"]] == pytest.approx([float(t) for t in shown["time_s"]], rel=1e-6)
    assert faulty["time_s"] - built["time_s"] == pytest.approx(2e-3, rel=1e-6)


def test_a_projection_names_its_faults() -> None:
    (words,) = (words for words in COMMANDS if words[0] == "project")
    (slow,) = json.loads(run(*words, "--json"))["projection"]
    (plain,) = json.loads(run(*words[: words.index("--faults")], "--json"))["projection"]
    assert slow["provenance"]["faults"] == (
        "assumed: 1 link fault, 1 slow GPU, stragglers of sigma 0.1, seed 1 (docs/faults/slow.toml)"
    )
    assert slow["step_time_s"] > 1.1 * plain["step_time_s"] and "faults" not in plain["provenance"]


def test_goodput_prints_what_the_page_shows() -> None:
    (words,) = (words for words in COMMANDS if words[0] == "goodput")
    shown = PAGE[PAGE.index("$ dessim goodput") :].splitlines()[1:10]
    assert [line.split() for line in run(*words).splitlines()] == [line.split() for line in shown]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file has no faults; add [[fault]], [stragglers] or [[slow_gpu]]"),
        ("[[fault]]\nat = '1 ms'", 'fault.0: name one thing: link = "leaf3 -> spine1"'),
        ("[[fault]]\nswitch = 'spine1'", "fault.0.at: missing"),
        ("[[fault]]\nswitch = 'spine1'\nat = 5", "fault.0.at: time needs a unit"),
        ("[[fault]]\nswitch = 'spine1'\nat = '5 ms'\nuntil = '4 ms'", "fault.0: until must be later than at"),
        ("[[fault]]\nswitch = 'spine1'\nat = '0 s'\nrate = '150 %'", "fault.0.rate: share '150 %' is more than 100 %"),
        ("[[fault]]\nswitch = 'spine1'\nat = '0 s'\nrate = 0.5", "fault.0.rate: share needs a unit"),
        ("[[fault]]\nswitch = 'spin1'\nat = '0 s'", "spin1: nothing is called 'spin1'; did you mean 'spine1'?"),
        ("[[fault]]\nlink = 'spine1'\nat = '0 s'", "fault.0: link = 'spine1': write \"leaf3 -> spine1\""),
        ("[[fault]]\nnic = 'node0/nic0'\nat = '0 s'\nevery = '1 s'", "fault.0: every and times belong together"),
        (
            "[[fault]]\nnic = 'node0/nic0'\nat = '0 s'\nevery = '1 s'\ntimes = 2",
            "end before it repeats; add until",
        ),
        (
            "[[slow_gpu]]\nrank = 2000\nfactor = 2",
            "slow_gpu: rank 2000 is not on h100-8x_rail_128, which has 1,024",
        ),
        ("[[slow_gpu]]\nrank = 1\nfactor = 0", "slow_gpu.0.factor: Input should be greater than 0"),
        ("[[slow_gpu]]\nrank = 1\nfactor = 2", "slow compute, and a collective alone has none"),
        ("[[falt]]\nat = '1 s'", "falt: unknown key"),
        ("[[fault]", "not TOML"),
        (
            "timeout = '1 ms'\n[[fault]]\nlink = 'gpu0 -> node0/nic0'\nat = '0 s'",
            "gpu0 -> node0/nic0 is down and no other route exists",
        ),
    ],
)
def test_a_bad_file_gets_a_one_line_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(text)
    words = "collective all_to_all --cluster h100-8x_rail_128 --gpus 16 --size 1GB --algorithm direct --faults"
    result = CliRunner().invoke(app, [*words.split(), str(path)])
    assert result.exit_code in (1, 2) and not result.stdout
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1, result.stderr
