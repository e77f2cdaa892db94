"""The study of bytes on the wire: its README agrees with its CSV, and broken bounds are reported."""

from __future__ import annotations

import pytest

from tests.pages import assert_same_page

STUDY = "wire_bytes"


def test_it_stays_within_its_bounds_and_changes_no_file(folder, plot, tmp_path):
    assert plot.main(["--out", str(tmp_path)]) == 0
    assert_same_page(tmp_path / "README.md", folder / "README.md")
    first = (tmp_path / "wire_bytes.svg").read_bytes()
    assert plot.main(["--out", str(tmp_path)]) == 0
    assert (tmp_path / "wire_bytes.svg").read_bytes() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "measured 0 times"),
        (lambda lines: [*lines[:2], lines[2] + "0", *lines[3:]], "bytes of frames per byte of payload"),
    ],
)
def test_a_case_that_is_missing_or_out_of_bounds_exits_3(folder, plot, tmp_path, monkeypatch, capsys, change, message):
    for file in folder.iterdir():
        if file.name != "wire_bytes.csv":
            (tmp_path / file.name).symlink_to(file)
    lines = (folder / "wire_bytes.csv").read_text().splitlines()
    (tmp_path / "wire_bytes.csv").write_text("\n".join(change(lines)) + "\n")
    monkeypatch.setattr(plot, "HERE", tmp_path)
    assert plot.main(["--out", str(tmp_path)]) == 3
    assert message in capsys.readouterr().err


def test_every_strategy_is_counted(folder, plot, study):
    from des_ref.strategies import STRATEGIES

    assert set(study["strategies"]) <= set(STRATEGIES)
    rows, machine = plot.load(folder / "wire_bytes.csv")
    assert len(rows) == len(study["strategies"]) * len(study["ranks"]) * len(study["batch"])
    assert "cores" in machine and "gloo" in machine


def test_the_readme_agrees_with_the_findings(folder, plot):
    rows, _ = plot.load(folder / "wire_bytes.csv")
    ratios = sorted(plot.ratio(row) for row in rows)
    assert f"{ratios[0]:.2f} to {ratios[-1]:.2f} bytes of Ethernet frames" in (folder / "README.md").read_text()
