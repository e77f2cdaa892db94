"""The report needs no other file, escapes every value and agrees with its rows."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser

import pytest

from dessim.results.pages.answers import answer, fastest_by_scale
from dessim.results.pages.demo import render_report, write_report
from dessim.results.svg import Plot
from dessim.units import percent
from tests.results.sample import projection, result

DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect id="a" width="9" height="9"/></svg>'
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks nesting; keeps tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title", "script"):
            self.text += data


@pytest.fixture
def without_figures(monkeypatch):
    """Empty figures, for tests of the text: drawing takes most of the time of a report."""
    for name in ("throughput", "step_breakdown", "bytes_per_worker", "utilisation"):
        monkeypatch.setattr(
            f"dessim.results.figures.{name}", lambda *arguments, **options: Plot("<svg></svg>", "figure", "")
        )


@pytest.fixture(scope="module")
def html():
    steps = [{"step": i, "measured_s": 0.021, "predicted_s": 0.02} for i in range(4)]
    return render_report(result(), cluster_svg=DRAWING, timeline="timeline.json.gz", recorded=steps)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_is_well_formed_and_loads_nothing(html, page):
    assert not {"link", "img", "iframe", "object"} & set(page.tags) and page.tags.count("script") == 1
    links = [value for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert not [v for v in links if not v.startswith(("#", "data:text/csv;"))]
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_ids_are_unique(page):
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_same_result_gives_the_same_bytes(html, tmp_path):
    steps = [{"step": i, "measured_s": 0.021, "predicted_s": 0.02} for i in range(4)]
    write_report(tmp_path / "report.html", result(), cluster_svg=DRAWING, timeline="timeline.json.gz", recorded=steps)
    assert (tmp_path / "report.html").read_text() == html


@pytest.mark.parametrize(
    "text",
    [
        "0.7842",
        "reference 0.785",
        "1.8e-15",
        "certified",
        "21.13 ms",
        "19.87 ms",
        "−6 %",
        "h100-8x_rail_128",
        "R² 0.9931, n = 24",
        "1,843,200",
        "(B/N)*m*(k+c)",
        "assumed (H100 SXM data sheet)",
        "timeline.json.gz",
        "How far to trust this",
    ],
)
def test_the_page_shows_every_part_of_the_result(page, text):
    assert text in page.text


HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}{% raw %}"


def poison(value):
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, dict):
        return {k: poison(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poison(v) for v in value]
    return value


def test_hostile_names_are_escaped_everywhere():
    bad = poison(result())
    for row in bad["projection"]:  # figures need different strategies
        row["strategy"] += str(row["gpus"] % 3)
    html = render_report(bad, timeline=HOSTILE)
    assert html.count("<script") == 1
    assert HOSTILE in Page(html).text
    assert ">49<" not in html


@pytest.mark.parametrize(
    "drawing",
    [
        "<svg><script>1</script></svg>",
        '<svg onload="x()"></svg>',
        "<svg><a href='javascript:x()'>x</a></svg>",
        '<svg><image href="http://example.org/x.png"/></svg>',
        '<svg><use xlink:href="http://example.org/x.svg#a"/></svg>',
        "<svg><foreignObject/></svg>",
    ],
)
def test_a_drawing_that_could_run_or_load_is_refused(without_figures, drawing):
    with pytest.raises(ValueError, match="must be plain SVG"):
        render_report(result(), cluster_svg=drawing)


def test_the_page_warns_about_synthetic_data_and_a_failed_certificate(without_figures):
    bad = copy.deepcopy(result())
    bad["data"]["fallback"] = True
    bad["certificate"] |= {"ok": False, "bytes_match": False}
    text = Page(render_report(bad)).text
    assert "Synthetic data." in text
    assert "The equivalence certificate failed." in text
    assert "certified" not in text
    assert "differ from the formulas" in text


def test_an_unknown_value_is_a_dash(without_figures):
    bare = result() | {"reference_auc": None, "self_replay_error": None, "prediction_error": None, "projection": []}
    bare["calibration"]["r2"] = None
    text = Page(render_report(bare)).text
    assert "no published reference" in text and "Nothing was projected" in text


def rows(*speeds, gpus=8, bar=None):
    base = projection(("des_all_reduce",), (8,))[0]
    names = ("des_all_reduce", "table_wise", "ps_sync")
    return [
        {**base, "gpus": gpus, "strategy": n, "samples_per_s": s, "error_bar": bar}
        for n, s in zip(names, speeds, strict=False)
    ]


def test_a_lead_within_the_error_is_a_tie():
    (fastest,) = fastest_by_scale(rows(100.0, 103.0), uncertainty=0.05)
    assert (fastest.strategy, fastest.runner_up, fastest.is_tie) == ("table_wise", "des_all_reduce", True)
    assert fastest.lead == pytest.approx(0.03)
    assert not fastest_by_scale(rows(100.0, 103.0), uncertainty=0.02)[0].is_tie
    assert fastest_by_scale(rows(100.0, 103.0, bar=0.1), uncertainty=0.02)[0].is_tie
    assert fastest_by_scale(rows(100.0), uncertainty=0.02)[0].runner_up is None
    assert fastest_by_scale([], 0.05) == []


def test_the_answer_says_which_strategy_is_fastest_at_each_scale():
    projected = rows(300.0, 100.0, gpus=8) + rows(100.0, 101.0, gpus=64) + rows(100.0, 150.0, gpus=512)
    sentence = answer(projected, "lab", uncertainty=0.04)[0]
    assert sentence == (
        "On lab: at 8 GPUs, DES AllReduce is fastest, 3 times as fast as table-wise;"
        " at 64 GPUs, table-wise and DES AllReduce are too close to call (1 % apart);"
        " at 512 GPUs, table-wise is fastest, 50 % ahead of DES AllReduce."
    )


def test_percentages():
    assert [percent(v) for v in (0.0596, 0.123, 0.0996, 1.5, 0.001, 0)] == [
        "6 %",
        "12 %",
        "10 %",
        "150 %",
        "0.1 %",
        "0 %",
    ]
    assert percent(-0.06, signed=True) == "−6 %"
    assert percent(0.012, signed=True) == "+1.2 %"


def test_both_errors_name_their_measurement(tmp_path, without_figures):
    """Both compare the prediction with a measurement: of plain steps, and of recorded steps."""
    write_report(tmp_path / "report.html", result())
    text = (tmp_path / "report.html").read_text()
    assert "against the recorded steps, recorder on" in text and "recorded communication times" not in text


def test_a_job_that_does_not_fit_is_a_caveat_without_a_row(without_figures):
    whole = result()
    misfit = {"gpus": 8, "strategy": "table_wise", "step_time_s": None, "samples_per_s": None, "memory_bytes": 1e12}
    whole["projection"] = [{**misfit, "does_not_fit": "a GPU needs 931 GiB"}, *whole["projection"]]
    assert "a GPU needs 931 GiB" in render_report(whole)
    whole["projection"] = whole["projection"][:1]
    assert "compares no strategies" in render_report(whole)


def test_the_page_shows_the_critical_path_of_the_fastest_strategy_and_of_the_replay(page):
    last = max((r for r in result()["projection"]), key=lambda r: (r["gpus"], r["samples_per_s"]))
    assert f"the largest part of its critical path is {last['bound_by']}" in page.text
    assert page.text.count("share of step") == 2
    assert page.text.count("peak use") == 2
    assert "2x:nic_rate" in page.text and "1.25×" in page.text and "does not fit" in page.text
