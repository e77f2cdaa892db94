"""Training on a lab: the kernel counts the bytes of the plan, plus headers."""

from __future__ import annotations

import pytest

from dessim.commands.support.lab_training import Trained, train_on_lab

pytest.importorskip("torch", reason="the trainer needs the [train] extra")


@pytest.mark.slow
@pytest.mark.torch
def test_the_kernel_counts_the_plans_bytes(can_build: None) -> None:
    names = ("des_reduce_scatter", "row_all_to_all", "ps_async")
    jobs = [{"model": "deepfm", "strategy": name, "batch": 384, "warmup": 1, "steps": 2} for name in names]
    result = train_on_lab("lab/switch_4", jobs, 90.0)
    links = result["links"]
    assert sum(link["dropped"] for link in links.values()) == 0
    sent, received = (sum(links[name]["bytes"] for name in links if name.startswith(end)) for end in ("gpu", "switch"))
    assert sent == pytest.approx(received, rel=1e-3)
    summing, exchanging, served = (Trained(found) for found in result["jobs"])
    for ran in (summing, exchanging, served):
        assert 1.0 < ran.frames / ran.payload < 1.10, ran.job["name"]
        assert 0 < ran.step_s < 30 and ran.samples_per_s == pytest.approx(384 / ran.step_s)
    assert (served.workers, served.job["servers"]) == (3, 1)
