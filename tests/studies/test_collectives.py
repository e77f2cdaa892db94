"""The study of collectives: it repeats its findings for 8 GPUs, and its README agrees with them."""

from __future__ import annotations

import pytest

from tests.pages import assert_same_page

STUDY = "collectives"


def test_it_repeats_its_findings_for_8_gpus(plot, study, expected):
    sizes = study["size"][::2]
    found = plot.compute(study | {"size": sizes}, study["gpus"][:1])
    kept = {plot.parse_size(size) for size in sizes}
    assert found == [row for row in expected if row["gpus"] == 8 and row["size_B"] in kept]


def test_page_data_and_figure_show_the_findings(folder, plot, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plot, "compute", lambda study, scales: [row for row in expected if row["gpus"] in scales])
    assert plot.main(["--out", str(tmp_path)]) == 0
    assert plot.main(["--quick"]) == 0 and capsys.readouterr().out.endswith("as recorded\n")
    assert_same_page(tmp_path / "README.md", folder / "README.md")
    for name in ("collectives.csv", "collectives.svg"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    monkeypatch.setattr(plot, "compute", lambda study, scales: expected[1:])
    assert plot.main(["--quick"]) == 3


def test_every_collective_has_one_choice_of_auto_and_other_candidates(plot, study, expected):
    cases = list(plot.cases(expected))
    assert len(cases) == 3 * 2 * len(study["gpus"]) * len(study["size"])
    assert all(auto["chosen"] for auto, _ in cases) and sum(row["chosen"] for row in expected) == len(cases)
    for auto, best in cases:
        assert best["time_s"] <= auto["time_s"]
        if auto["low_s"] is not None:
            assert auto["low_s"] < auto["time_s"] < auto["high_s"]
        n, sent = auto["gpus"], 2 if auto["op"] == "all_reduce" else 1
        rate = sent * (n - 1) / n * auto["size_B"] / auto["time_s"] / 1e9
        assert auto["busbw_GBps"] == pytest.approx(rate, rel=1e-4)


def test_the_answer_in_the_readme_agrees_with_the_findings(plot, expected):
    cases = list(plot.cases(expected))
    reduced = [(auto, best) for auto, best in cases if auto["op"] == "all_reduce" and "H100" in auto["cluster"]]
    assert (len(reduced), sum(a["time_s"] <= plot.SLOWER * b["time_s"] for a, b in reduced)) == (30, 20)
    clear = [(a, b) for a, b in reduced if b["time_s"] < a["low_s"]]
    assert {(a["gpus"], a["size_B"], a["algorithm"], b["algorithm"]) for a, b in clear} == {
        (gpus, 64 * 2**20, "nvls_tree simple", "tree ll128") for gpus in (64, 512)
    }
    rail = [seconds for a, b in clear if "rail" in a["cluster"] for seconds in (a["time_s"], b["time_s"])]
    assert rail == pytest.approx([788e-6, 574e-6, 1.21e-3, 648e-6], rel=0.01)
    by_case = {tuple(a[key] for key in plot.COLUMNS[:4]): (a["time_s"], b["time_s"]) for a, b in cases}
    auto, bruck = by_case["all_to_all", "rail-optimised, H100", 512, 2**14]
    assert auto / bruck == pytest.approx(7.1, abs=0.1)
    torus = [by_case["all_reduce", "torus, TPU v4", 512, 2**k] for k in (14, 18, 22, 26)]
    saved = [1 - best / auto for auto, best in torus]
    assert (min(saved), max(saved)) == pytest.approx((0.31, 0.51), abs=0.01)
    for op, slower in (("all_to_all", 3.5), ("all_reduce", 1.4)):
        times = [by_case[op, fabric, 512, 2**30][0] for fabric in ("fat tree 4:1, H100", "rail-optimised, H100")]
        assert times[0] / times[1] == pytest.approx(slower, abs=0.05)
