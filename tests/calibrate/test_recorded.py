"""Overheads from a handful of recorded collectives: what made the times is found again, and nothing from too few."""

from __future__ import annotations

import pytest

from dessim.calibrate.recorded import Overheads, Timed, fit_overheads, leave_one_out

TRUE = Overheads(7e-6, 1.9)
PARTS = [(6e-7, 4e-9), (6e-7, 1.2e-6), (8.4e-6, 7e-5), (8.4e-6, 2e-8), (4.2e-6, 3e-5)]


def samples(truth: Overheads) -> list[Timed]:
    return [Timed(truth.op_overhead + truth.latency_factor * l + truth.wire_factor * w, l, w) for l, w in PARTS]


@pytest.mark.parametrize("rates", [False, True])
def test_it_finds_what_made_the_times(rates):
    truth = Overheads(7e-6, 1.9, 1.3 if rates else 1.0)
    for fit in (fit_overheads(samples(truth), rates), *leave_one_out(samples(truth), rates)):
        assert (fit.op_overhead, fit.latency_factor, fit.wire_factor) == pytest.approx((7e-6, 1.9, truth.wire_factor))


def test_the_one_left_out_has_no_say():
    times = samples(TRUE)
    for place in range(len(times)):
        spoilt = [*times[:place], Timed(1.0, *PARTS[place]), *times[place + 1 :]]
        assert leave_one_out(spoilt)[place] == leave_one_out(times)[place]


def test_costs_are_never_negative():
    """Calls that take less than their bytes do: the best that can be said is that they cost nothing."""
    fit = fit_overheads([Timed(0.9 * w + 1e-9, l, w) for l, w in PARTS])
    assert fit.op_overhead >= 0 and fit.latency_factor >= 0


def test_too_few_are_refused():
    with pytest.raises(ValueError, match="2 collectives are too few to fit 3 coefficients"):
        fit_overheads(samples(TRUE)[:2], rates=True)
    with pytest.raises(ValueError, match="1 collectives are too few to fit 2"):
        leave_one_out(samples(TRUE)[:2])
