"""A fit to a few recorded collectives recovers the overheads behind their times, and refuses too few of them."""

from __future__ import annotations

import pytest

from dessim.calibrate.recorded import Overheads, Timed, fit_overheads, leave_one_out

TRUE = Overheads(7e-6, 1.9)
PARTS = [(6e-7, 4e-9), (6e-7, 1.2e-6), (8.4e-6, 7e-5), (8.4e-6, 2e-8), (4.2e-6, 3e-5)]


def samples(truth: Overheads) -> list[Timed]:
    return [Timed(truth.seconds(Timed(0.0, latency, wire)), latency, wire) for latency, wire in PARTS]


@pytest.mark.parametrize("rates", [False, True])
def test_the_overheads_behind_the_times_are_recovered(rates: bool) -> None:
    truth = Overheads(7e-6, 1.9, 1.3 if rates else 1.0)
    for fit in (fit_overheads(samples(truth), rates), *leave_one_out(samples(truth), rates)):
        assert (fit.op_overhead, fit.latency_factor, fit.wire_factor) == pytest.approx((7e-6, 1.9, truth.wire_factor))


def test_the_sample_left_out_does_not_influence_its_fit() -> None:
    times = samples(TRUE)
    for place in range(len(times)):
        outlier = [*times[:place], Timed(1.0, *PARTS[place]), *times[place + 1 :]]
        assert leave_one_out(outlier)[place] == leave_one_out(times)[place]


def test_overheads_are_never_negative() -> None:
    """Even if calls are faster than their simulated time on the wire."""
    fit = fit_overheads([Timed(0.9 * wire + 1e-9, latency, wire) for latency, wire in PARTS])
    assert fit.op_overhead >= 0 and fit.latency_factor >= 0


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="2 collectives are too few to fit 3 coefficients"):
        fit_overheads(samples(TRUE)[:2], rates=True)
    with pytest.raises(ValueError, match="1 collectives are too few to fit 2"):
        leave_one_out(samples(TRUE)[:2])
