"""Codecs on their own: sizes follow the formulas, errors are bounded, random codecs are unbiased."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from des_ref.codecs import CODECS, Encoded, new_codec
from des_ref.codecs.bits import pack_6bit, pack_bits, unpack_6bit, unpack_bits
from des_ref.codecs.fp6 import MANTISSA_BITS_BY_SIGMA, levels, mantissa_bits
from des_ref.codecs.lognormal import expected_largest, fit, sparsity, threshold
from des_ref.codecs.pruning import Pruning
from des_ref.codecs.threshold import Threshold
from des_ref.recording.torch_calls import bytes_of, touches_memory
from dessim.workload.codecs import parse_codec
from dessim.workload.formula import number, symbol

FORMS = ("fp32", "bf16", "fp16", "fp6", "top_k:0.3", "pruning:0.7", "threshold:0.9:3")
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 70))
DTYPES = st.sampled_from([torch.float32, torch.float64])


def lognormal(seed, rows, width, sigma=1.2, dtype=torch.float64, mu=-5.0):
    draw = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, (rows, width), generator=draw) * 2 - 1
    return (sign * (mu + sigma * torch.randn(rows, width, generator=draw, dtype=torch.float64)).exp()).to(dtype)


def sent(codec, values, splits=None):
    """The decoded values of one message, or of one message for each split, and the total number of bytes."""
    splits = splits or [len(values)]
    encoded = codec.encode(values)
    messages, sizes = encoded.packed(splits)
    arrived = Encoded.unpacked(messages.split(sizes), splits, codec.sizes(values.shape[1]))
    return codec.decode(arrived, values.shape[1]), len(messages)


def test_every_form_has_a_codec():
    assert sorted(CODECS) == sorted(text.partition(":")[0] for text in FORMS)


@pytest.mark.parametrize("text", FORMS)
@given(shape=SHAPES, dtype=DTYPES, seed=st.integers(0, 2**20), data=st.data())
def test_message_sizes_follow_the_formula_for_any_split_into_messages(text, shape, dtype, seed, data):
    form = parse_codec(text)
    rows, width = (1, shape[0] * shape[1]) if form.name == "threshold" else shape
    codec, values = new_codec(form, dtype, seed), lognormal(seed, rows, width, dtype=dtype)
    values[torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) < 0.2] = 0
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=3))) if rows > 1 else []
    splits = [b - a for a, b in zip([0, *cuts], [*cuts, rows], strict=True)]
    back, size = sent(codec, values, splits)
    assert back.shape == values.shape and back.dtype == dtype
    symbols = {"s": float(dtype.itemsize), "z": float((back != 0).double().mean())}
    assert size == round(form.size(number(len(splits)), number(rows), number(width), symbol("z")).evaluate(symbols))


@pytest.mark.parametrize("text", FORMS[:-1])  # threshold encodes exactly one vector
def test_an_empty_message_decodes_to_no_rows(text):
    codec = new_codec(parse_codec(text), torch.float32)
    back, _ = sent(codec, torch.zeros(0, 5), [0, 0])
    assert back.shape == (0, 5)


@pytest.mark.parametrize("text", FORMS)
def test_a_nan_is_transmitted(text):
    codec, values = new_codec(parse_codec(text), torch.float32), lognormal(1, 1, 40, dtype=torch.float32)
    values[0, 7] = math.nan
    back, _ = sent(codec, values)
    assert bool(back[0, 7].isnan())


@pytest.mark.parametrize("text", FORMS)
def test_zeros_decode_to_zeros(text):
    codec = new_codec(parse_codec(text), torch.float32)
    assert not sent(codec, torch.zeros(1, 9))[0].any()


@given(shape=SHAPES, dtype=DTYPES, seed=st.integers(0, 2**20))
def test_fp32_is_exact(shape, dtype, seed):
    form, values = parse_codec("fp32"), lognormal(seed, *shape, dtype=dtype)
    assert form.exact
    assert torch.equal(sent(new_codec(form, dtype), values)[0], values)


@pytest.mark.parametrize(("text", "relative", "absolute"), [("bf16", 2**-8, 0.0), ("fp16", 2**-11, 2**-25)])
@given(shape=SHAPES, seed=st.integers(0, 2**20), mu=st.floats(-15, 3))
def test_a_cast_rounds_to_the_nearest_float(text, relative, absolute, shape, seed, mu):
    values = lognormal(seed, *shape, mu=mu)
    back, _ = sent(new_codec(parse_codec(text), torch.float64), values)
    assert bool(((back - values).abs() <= values.abs() * relative + absolute).all())


@given(shape=SHAPES, seed=st.integers(0, 2**20), sigma=st.floats(0, 6), mu=st.floats(-30, 30))
def test_fp6_rounds_to_the_nearest_level_and_never_saturates(shape, seed, sigma, mu):
    values = lognormal(seed, *shape, sigma, mu=mu)
    back, _ = sent(new_codec(parse_codec("fp6"), torch.float64), values)
    found_mu, found_sigma, _, count = fit(values.abs())
    mantissa = mantissa_bits(found_sigma)
    table = levels(mantissa)
    largest = max(float(values.abs().max()), expected_largest(found_mu, found_sigma, count))
    top = float(table[-1])
    scale = 2.0 ** math.ceil(math.log2(largest / top))
    assert largest <= top * scale < 2 * largest * (1 + 1e-9)
    # Error bound of half a step, relative to the value if it is normal and to the smallest normal level if not.
    smallest = scale * 2.0 ** (1 - ((1 << (5 - mantissa)) - 1))
    half = 2.0 ** -(mantissa + 1)
    bound = torch.maximum(values.abs() * half, torch.full_like(values, smallest * half))
    if mantissa == 0:  # levels are powers of two: the nearest may be off by a third
        bound = torch.maximum(values.abs() / 3, torch.full_like(values, smallest / 2))
    assert bool(((back - values).abs() <= bound * (1 + 1e-6)).all())


def mean_relative_error(sigma, mantissa):
    values = lognormal(3, 200, 500, sigma).abs()
    table = levels(mantissa)
    mu, sigma, _, count = fit(values)
    scale = 2.0 ** math.ceil(math.log2(expected_largest(mu, sigma, count) / float(table[-1])))
    at = torch.bucketize(values, (table[1:] + table[:-1]) / 2 * scale)
    return float(((table[at] * scale - values).abs() / values).mean())


def test_fp6_picks_the_mantissa_width_with_the_least_error_on_both_sides_of_each_limit():
    for (spread, narrow), (_, wide) in pairwise(MANTISSA_BITS_BY_SIGMA):
        assert mean_relative_error(0.9 * spread, narrow) < mean_relative_error(0.9 * spread, wide)
        assert mean_relative_error(1.1 * spread, narrow) > mean_relative_error(1.1 * spread, wide)


def test_fp6_levels_start_at_zero_and_increase_strictly():
    for mantissa in range(3):
        table = levels(mantissa)
        assert table[0] == 0 and bool((table.diff() > 0).all()) and len(table) == 32


@given(width=st.integers(1, 40), rows=st.integers(0, 5), seed=st.integers(0, 99))
def test_unpacking_inverts_packing(width, rows, seed):
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 64, (rows, width), generator=draw, dtype=torch.uint8)
    bits = codes > 31
    assert torch.equal(unpack_6bit(pack_6bit(codes), width), codes)
    assert pack_6bit(codes).shape[1] == math.ceil(6 * width / 8)
    assert torch.equal(unpack_bits(pack_bits(bits), width), bits)


@given(shape=SHAPES, seed=st.integers(0, 2**20), share=st.sampled_from([0.1, 0.25, 0.5, 0.9]))
def test_top_k_keeps_the_largest_values_of_each_row_unchanged(shape, seed, share):
    values = lognormal(seed, *shape)
    back, _ = sent(new_codec(parse_codec(f"top_k:{share}"), torch.float64), values)
    kept = back != 0
    assert torch.equal(back[kept], values[kept])
    assert kept.sum(dim=1).tolist() == [math.ceil(share * shape[1])] * shape[0]
    least = torch.where(kept, values.abs(), math.inf).min(dim=1).values
    assert bool((torch.where(kept, 0.0, values.abs()).max(dim=1).values <= least).all())


@given(length=st.integers(1, 300), seed=st.integers(0, 2**20), steps=st.integers(1, 7))
def test_values_below_the_threshold_are_sent_later_or_remain_in_the_residual(length, seed, steps):
    codec = new_codec(parse_codec("threshold:0.9:3"), torch.float64)
    assert isinstance(codec, Threshold)
    given_, arrived = torch.zeros(1, length, dtype=torch.float64), torch.zeros(1, length, dtype=torch.float64)
    for i in range(steps):
        values = lognormal(seed + i, 1, length)
        before, full = codec.tau, values + (codec.residual if codec.residual is not None else 0)
        back, _ = sent(codec, values)
        given_, arrived = given_ + values, arrived + back
        if i % 3 == 0:  # a new threshold holds back exactly the requested share if all values differ
            assert int((back != 0).sum()) == length - min(int(0.9 * length), length - 1)
        else:
            assert codec.tau == before
        assert bool((full[back != 0].abs() >= codec.tau).all() and (full[back == 0].abs() < codec.tau).all())
        torch.testing.assert_close(arrived + codec.residual, given_, rtol=1e-12, atol=1e-15)


def test_pruning_is_unbiased():
    values = lognormal(5, 1, 200).expand(4000, 200).contiguous()
    codec = new_codec(parse_codec("pruning:0.8"), torch.float64, seed=9)
    assert isinstance(codec, Pruning)
    a = threshold(0.8, *fit(values.abs())[:2])
    mean = codec.prune(values, values.abs(), a).mean(dim=0)
    # The variance of one draw is |g| (a - |g|), where |g| < a.
    error = (values[0].abs() * (a - values[0].abs()).clamp_min(0) / 4000).sqrt()
    assert bool(((mean - values[0]).abs() <= 5 * error + 1e-15).all())
    large = values[0].abs() >= a
    torch.testing.assert_close(mean[large], values[0][large])
    pruned = codec.prune(values, values.abs(), a)
    changed = pruned[(pruned != values) & (pruned != 0)]
    torch.testing.assert_close(changed.abs(), torch.full_like(changed, a))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.9])
def test_sparsity_of_pruned_log_normal_values_is_the_closed_form_within_1_percent(sigma, share):
    values = lognormal(7, 1000, 1000, sigma)
    codec = new_codec(parse_codec(f"pruning:{share}"), torch.float64, seed=2)
    a = threshold(share, *fit(values.abs())[:2])
    z = (math.log(a) - -5.0) / sigma
    assert sparsity(z, sigma) == pytest.approx(share, rel=0.01)
    back, size = sent(codec, values)
    assert float((back == 0).double().mean()) == pytest.approx(sparsity(z, sigma), rel=0.01)
    assert size == pytest.approx(1e6 / 8 + 8e6 * (1 - share), rel=0.02)


@given(sigma=st.floats(0.01, 8), z=st.floats(-6, 30))
def test_the_closed_form_of_sparsity_equals_the_integral(sigma, z):
    """E[1 - |x| / a; |x| < a], x = e^(sigma t), a = e^(sigma z), by the trapezoid rule over t."""
    t = torch.linspace(-12, min(z, 12), 200_001, dtype=torch.float64)
    density = torch.exp(-t.square() / 2) / math.sqrt(2 * math.pi)
    integral = float(torch.trapezoid((1 - torch.exp(sigma * (t - z))) * density, t))
    assert sparsity(z, sigma) == pytest.approx(integral, abs=1e-7)


@given(sigma=st.floats(0, 8), share=st.floats(0.01, 0.99), mu=st.floats(-20, 20))
def test_the_threshold_sets_the_requested_share_to_zero(sigma, share, mu):
    a = threshold(share, mu, sigma)
    if sigma >= 1e-3:
        assert sparsity((math.log(a) - mu) / sigma, sigma) == pytest.approx(share, abs=1e-6)
    else:
        assert 1 - math.exp(mu) / a == pytest.approx(share, abs=2e-3)


class Counted(TorchDispatchMode):
    """Counts kernels and bytes the way the recorder does."""

    def __init__(self):
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if touches_memory(func):
            self.kernels, self.bytes = self.kernels + 1, self.bytes + bytes_of(args) + bytes_of(out)
        return out


@pytest.mark.parametrize("text", FORMS[1:])
def test_planned_work_of_encoding_and_decoding_is_close_to_what_torch_does(text):
    form = parse_codec(text)
    codec, rows, width = new_codec(form, torch.float32), *((1, 40_000) if "threshold" in text else (100, 400))
    values = lognormal(3, rows, width, dtype=torch.float32)
    sent(codec, values)  # one-time setup
    with Counted() as encoding:
        encoded = codec.encode(values)
        message, _ = encoded.packed([rows])
    with Counted() as decoding:
        codec.decode(Encoded.unpacked([message], [rows], codec.sizes(width)), width)
    for work, counted in ((form.encode, encoding), (form.decode, decoding)):
        assert abs(work.kernels - counted.kernels) <= max(3, 0.2 * counted.kernels)
        assert work.touches * 4 * values.numel() + len(message) == pytest.approx(counted.bytes, rel=0.5)
