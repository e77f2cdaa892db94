"""Figures of sweeps: every panel shows all its numbers, in the order of the rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from dessim.errors import UsageError
from dessim.results import sweep_figure as module
from dessim.results.svg import plotted
from dessim.results.sweep_figure import Encoding, sweep_figure

ROWS = [
    {"cluster": cluster, "strategy": strategy, "gpus": gpus, "step_time_s": seconds * gpus}
    for cluster, seconds in (("small", 0.001), ("large", 0.004))
    for strategy in ("table_wise", "des_all_reduce")
    for gpus in (8, 16)
]
AXES = ("cluster", "strategy", "gpus")


@pytest.mark.parametrize(
    "shown",
    [
        Encoding("strategy", "step_time_s", "gpus", "cluster"),
        Encoding("gpus", "step_time_s", "strategy", "cluster"),
        Encoding("gpus", "step_time_s", "cluster", "strategy"),
    ],
)
def test_no_panel_cuts_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: Encoding) -> None:
    figures = []
    monkeypatch.setattr(module, "plotted", lambda figure, *rest: figures.append(figure) or plotted(figure, *rest))
    sweep_figure(ROWS, AXES, shown, tmp_path / "f.svg")
    (figure,) = figures
    assert len(figure.axes) == 2
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low <= 0.008 and high >= 0.064
        if shown.x == "gpus":
            assert [list(line.get_xdata()) for line in axes.get_lines() if len(line.get_xdata())] == [[8, 16]] * 2
    assert len((tmp_path / "f.csv").read_text().splitlines()) == 1 + len(ROWS)


def test_too_many_lines_are_refused(tmp_path: Path) -> None:
    rows = [{"gpus": 8, "batch": number, "step_time_s": 1.0} for number in range(13)]
    with pytest.raises(UsageError, match="batch has 13 values, a figure shows 12"):
        sweep_figure(rows, ("gpus", "batch"), Encoding("gpus", "step_time_s", "batch"), tmp_path / "f.svg")
