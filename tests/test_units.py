"""Units: parsing, formatting, and above all what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim import units
from dessim.errors import UnitError

PARSERS = [units.parse_size, units.parse_bandwidth, units.parse_time, units.parse_flops, units.parse_power]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_bandwidth, "400 Gb/s", 50e9),
        (units.parse_bandwidth, "50 GB/s", 50e9),
        (units.parse_bandwidth, "50GB/s", 50e9),
        (units.parse_bandwidth, "3.35 TB/s", 3.35e12),
        (units.parse_bandwidth, "1 GiB/s", 2.0**30),
        (units.parse_bandwidth, "8 b/s", 1.0),
        (units.parse_size, "64 MiB", 64 * 2.0**20),
        (units.parse_size, "1.5 GB", 1.5e9),
        (units.parse_size, "512 B", 512.0),
        (units.parse_size, "0 B", 0.0),
        (units.parse_size, "1_000 kB", 1e6),
        (units.parse_size, "1e3 B", 1e3),
        (units.parse_size, ".5 KiB", 512.0),
        (units.parse_time, "1.5 us", 1.5e-6),
        (units.parse_time, "1.5 µs", 1.5e-6),
        (units.parse_time, " 2 ms ", 2e-3),
        (units.parse_time, "30 d", 30 * 86400.0),
        (units.parse_flops, "67 TFLOP/s", 67e12),
        (units.parse_power, "700 W", 700.0),
    ],
)
def test_a_quantity_with_its_unit_is_parsed(parse, text, value):
    assert parse(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "text",
    [
        400,
        400.0,
        None,
        True,
        ["400 Gb/s"],
        "",
        "400",
        "Gb/s",
        "400 Gb/s per second",
        "four hundred Gb/s",
        "400 parsec",
        "nan B",
        "inf B",
        "1e999 B",
        "1e999 s",
        "1__0 B",
        "0x10 B",
        "1,000 B",
    ],
)
def test_anything_else_is_refused(parse, text):
    with pytest.raises(UnitError, match=r"write for example|must be finite"):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (units.parse_bandwidth, "400 Gb"),
        (units.parse_bandwidth, "400 Gbps"),
        (units.parse_bandwidth, "400 gb/s"),
        (units.parse_bandwidth, "-1 Gb/s"),
        (units.parse_size, "64 Mb"),
        (units.parse_size, "64 mB"),
        (units.parse_size, "-64 MiB"),
        (units.parse_time, "5 GB"),
        (units.parse_time, "-1 us"),
        (units.parse_time, "1 month"),
        (units.parse_flops, "67 TFLOPS"),
        (units.parse_power, "700 w"),
    ],
)
def test_a_unit_of_another_kind_is_refused(parse, text):
    with pytest.raises(UnitError):
        parse(text)


def test_the_message_gives_an_example():
    with pytest.raises(UnitError) as caught:
        units.parse_bandwidth(400)
    assert str(caught.value) == 'bandwidth needs a unit, not the bare value 400; write for example "400 Gb/s"'


@given(st.floats(1e-9, 1e5))
def test_times_survive_printing(seconds):
    assert units.parse_time(units.format_time(seconds, digits=12)) == pytest.approx(seconds, rel=1e-11)


@given(st.floats(1, 1e14))
def test_bandwidths_survive_printing(rate):
    assert units.parse_bandwidth(units.format_bandwidth(rate, digits=12)) == pytest.approx(rate, rel=1e-11)


@given(st.floats(1, 2**45))
def test_sizes_survive_printing(size):
    assert units.parse_size(units.format_size(size, digits=12)) == pytest.approx(size, rel=1e-11)


@given(st.floats(0, 1e18))
def test_formatted_sizes_can_be_parsed_again(value):
    assert math.isclose(units.parse_size(units.format_size(value)), value, rel_tol=1e-3, abs_tol=1e-300)


@given(
    st.floats(1, 1024), st.sampled_from([1.0, 2.0**10, 2.0**20, 2.0**40, 1e3, 1e6, 1e12]), st.sampled_from([2, 3, 4])
)
def test_printed_values_are_plain_decimals(mantissa, factor, digits):
    value = mantissa * factor
    for text in (
        units.format_size(value, digits),
        units.format_bandwidth(value, digits),
        units.format_time(value * 1e-9, digits),
        units.format_count(value, digits),
    ):
        assert "e+" not in text, text


def test_printing_examples():
    assert [units.format_duration(s) for s in (0, 59.9, 641.6, 10243, 121500, 1e6)] == [
        *("0 s", "59.9 s", "10.7 min", "2.85 h", "33.8 h", "11.6 d")
    ]
    assert units.format_time(0) == "0 s"
    assert units.format_time(0.0015) == "1.5 ms"
    assert units.format_size(1536) == "1.5 KiB"
    assert units.format_size(1010 * 1024, digits=3) == "1010 KiB"
    assert units.format_bandwidth(5e10) == "50 GB/s"
    assert units.format_count(1_250_000) == "1.25 M"
    assert units.format_count(12) == "12"
