"""Random draws of a step: a worker draws for its own samples what one process draws for all, in integer arithmetic."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from des_ref.models.build import Network
from des_ref.reference_draws import plain_draws
from des_ref.substitution.layers import linear_weights
from dessim.workload.model import load_model

SEED = 5


def network(model: str, device: str = "cpu") -> Network:
    return Network(load_model(model), SEED, torch.float64, device)


@pytest.fixture(scope="module")
def deepfm() -> Network:
    """DeepFM with dropout 0.2 in layers of 64 and 32 units."""
    return network("deepfm_ml100k")


@given(places=st.lists(st.integers(0, 2**40), min_size=1, max_size=5), step=st.integers(0, 2**40))
def test_draws_follow_their_description(deepfm: Network, places: list[int], step: int) -> None:
    masks = deepfm.masks(torch.tensor(places), step)
    plain = plain_draws(deepfm.model, SEED, step, places)
    assert all(torch.equal(a, b) for a, b in zip(masks, plain, strict=True))


def test_codes_draw_the_noise_of_their_description() -> None:
    model = network("fvae")
    (noise,), (plain,) = model.masks(torch.arange(20), 3), plain_draws(model.model, SEED, 3, range(20))
    assert float((noise - plain).abs().max()) < 1e-14


def test_a_workers_masks_are_its_part_of_those_of_the_batch(deepfm: Network) -> None:
    whole = deepfm.masks(torch.arange(64), 7)
    for rank in range(4):
        places = torch.arange(rank * 16, (rank + 1) * 16)
        assert all(torch.equal(own, mask[places]) for own, mask in zip(deepfm.masks(places, 7), whole, strict=True))


def test_masks_keep_their_share_and_differ_by_step_layer_and_sample(deepfm: Network) -> None:
    places = torch.arange(4000)
    first, second = deepfm.masks(places, 0)
    for mask in (first, second):
        kept = float((mask > 0).double().mean())
        assert abs(kept - 0.8) < 5 * sqrt(0.2 * 0.8 / mask.numel())
        assert mask.unique().tolist() == [0.0, 1 / 0.8]
    # Independent masks of the same share agree in 0.8^2 + 0.2^2 of their units.
    for other in (second, deepfm.masks(places, 1)[0][:, :32], first[:, 32:], first[:, :32].roll(1, 0)):
        assert float((other == first[:, :32]).double().mean()) == pytest.approx(0.68, abs=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_masks(deepfm: Network) -> None:
    masks = network("deepfm_ml100k", "cuda").masks(torch.arange(500, device="cuda"), 9)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(masks, deepfm.masks(torch.arange(500), 9), strict=True))


def test_initial_weights_of_layers_are_centred_and_bounded() -> None:
    """Uniform in +-1/sqrt(fan_in)."""
    weights = linear_weights(400, 25, torch.Generator().manual_seed(1))
    assert float(weights.abs().max()) <= 0.2
    assert abs(float(weights.mean())) < 5 * 0.2 / sqrt(3 * weights.numel())
    assert float(weights.std()) == pytest.approx(0.2 / sqrt(3), rel=0.03)
