"""`dessim calibrate --nccl-tests`, `--transport` and NCCL's overrides, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.calibrate.nccl.logs import log
from tests.test_cli import run

RAIL = "h100-8x_rail_128"
COLLECTIVE = ("collective", "all_reduce", "--cluster", RAIL, "--gpus", "16", "--size", "1MiB")


def test_logs_become_a_transport_for_other_commands(tmp_path: Path) -> None:
    (tmp_path / "all_reduce.log").write_text(log())
    (tmp_path / "alltoall.log").write_text(log("alltoall", [(1 << 20, 31.0), (64 << 20, 220.0)]))
    logs = [str(tmp_path / name) for name in ("all_reduce.log", "alltoall.log")]
    out = str(tmp_path / "mine.toml")
    code, printed, _ = run("calibrate", "--nccl-tests", *logs, "--cluster", RAIL, "-o", out)
    assert code == 0 and "9 readings of nccl-tests" in printed and "all_to_all" in printed
    code, printed, _ = run("calibrate", "--nccl-tests", *logs, "--cluster", RAIL, "-o", out, "--json")
    assert code == 0 and json.loads(printed)["version"] == "2.29"
    code, printed, _ = run(*COLLECTIVE, "--transport", out, "--json")
    assert code == 0 and json.loads(printed)["algorithm"] == "tree ll128"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("give --nccl-tests LOG... --cluster FILE", ("calibrate", "--nccl-tests", "-o", "x.toml")),
        ("give --nccl-tests LOG... --cluster FILE", ("calibrate", "x.log", "--cluster", RAIL, "-o", "x.toml")),
        (
            "--algorithm and --protocol: NCCL does not offer 'nvls ll'",
            (*COLLECTIVE, "--algorithm", "nvls", "--protocol", "ll"),
        ),
        (
            "--protocol: no protocol 'll64'; did you mean ll? choose from ll, ll128, simple",
            (*COLLECTIVE, "--protocol", "ll64"),
        ),
        ("need an NCCL transport", (*COLLECTIVE, "--protocol", "ll", "--transport", "ideal")),
        ("need --network fluid", (*COLLECTIVE, "--protocol", "ll", "--network", "packet")),
        ("--published takes", ("validate", "--published", "--quick")),
    ],
)
def test_mistakes_get_one_line(text: str, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and text in err and err.count("\n") == 1


def test_overrides_name_what_runs() -> None:
    code, printed, _ = run(*COLLECTIVE, "--algorithm", "tree", "--protocol", "simple", "--channels", "4", "--json")
    assert code == 0 and json.loads(printed)["algorithm"] == "tree simple"
    code, printed, _ = run(*COLLECTIVE, "--algorithm", "ring", "--json")
    assert code == 0 and json.loads(printed)["algorithm"] == "ring"


def test_published_readings_are_predicted() -> None:
    code, printed, _ = run("validate", "--published", "--json")
    found = json.loads(printed)
    assert code == 0 and found["broken"] == [] and len(found["cases"]) > 1000
