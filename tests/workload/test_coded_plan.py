"""Plans whose values are sent encoded: the ops that replace each collective, their bytes, and what is not encoded."""

from __future__ import annotations

import pytest

from dessim.errors import UsageError
from dessim.trace.schema import Collective, Kind
from dessim.workload import symbols
from dessim.workload.codecs import CodecConfig, parse_codec, parse_codecs
from dessim.workload.coded_plan import coded
from dessim.workload.formula import group
from dessim.workload.model import load_model, parse_model
from dessim.workload.plan import Plan
from dessim.workload.strategies import STRATEGIES, plan
from dessim.workload.symbols import W, u

MODEL = load_model("deepfm")  # K = 1 + (16 + 1) + 400, of which the mlp's 400 are encoded
N, B, H1, K = 8, 32768, 400, 418


def symbols_of(planned: Plan):
    return planned.symbols(MODEL.symbols(N, B))


def of(strategy, codecs):
    return coded(plan(strategy, MODEL), MODEL, parse_codecs(codecs))


def sent(planned, name):
    return planned.op(name).bytes(symbols_of(planned))


def test_a_cast_halves_the_bytes_of_a_sum_and_sends_exact_columns_beside_it():
    planned = of("des_all_reduce", "activations=bf16")
    assert sent(planned, "partials") == B * H1 * 2
    assert sent(planned, "partials_wide") == B * (K - H1) * 4
    assert planned.op("partials").collective is planned.op("partials_wide").collective is Collective.ALL_REDUCE


def test_an_all_reduce_of_six_bit_values_becomes_an_all_to_all_and_an_all_gather():
    planned = of("des_all_reduce", "activations=fp6")
    scatter, gather = planned.op("partials_scatter"), planned.op("partials")
    assert (scatter.collective, gather.collective) == (Collective.ALL_TO_ALL, Collective.ALL_GATHER)
    assert sent(planned, "partials_scatter") == sent(planned, "partials") == N * 8 + B * 300
    # Together they send what an AllReduce of the encoded bytes would.
    values = symbols_of(planned)
    assert scatter.sent_bytes(values) + gather.sent_bytes(values) == pytest.approx(2 * (N - 1) / N * (N * 8 + B * 300))


def test_top_k_sends_a_bit_for_each_value_and_the_kept_values():
    assert sent(of("des_reduce_scatter", "activations=top_k:0.25"), "partials") == B * (H1 // 8 + 4 * H1 // 4)


def test_sparse_codecs_are_priced_at_their_expected_density():
    planned = of("des_all_reduce", "dense=threshold:0.99")
    weights = H1 * 39 * 16
    assert planned.expects == pytest.approx({"zd": 0.01})
    assert sent(planned, "shared_grad") == pytest.approx(N * 8 * 0.01 * weights, abs=1)
    assert sent(planned, "shared_grad_sizes") == N * 8
    assert planned.op("shared_grad").collective is Collective.ALL_GATHER
    planned = of("des_reduce_scatter", "gradients=pruning:0.8")
    assert sent(planned, "partials_grad") == pytest.approx(B * (53 + 0.2 * 4 * K), abs=1)
    # A measured density replaces the expected one.
    assert planned.op("partials_grad").bytes({**symbols_of(planned), "zg": 0.5}) == B * (53 + 0.5 * 4 * K)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s not in ("mesh", "ps_async")])
@pytest.mark.parametrize("codecs", ["bf16", "fp6", "pruning:0.8"])
def test_other_ops_are_unchanged_and_wait_for_decoded_values(strategy, codecs):
    plain, planned = plan(strategy, MODEL), of(strategy, codecs)
    changed = dict.fromkeys(op.part_of for op in planned.ops if op.part_of)
    assert changed
    for op in plain.ops:
        if op.name not in changed:
            assert planned.op(op.name).size == op.size
            assert planned.op(op.name).deps == tuple(f"{d}_decode" if d in changed else d for d in op.deps)
    for name in changed:
        assert planned.op(f"{name}_encode").deps == tuple(
            f"{d}_decode" if d in changed else d for d in plain.op(name).deps
        )
        assert planned.op(name).traffic is plain.op(name).traffic
        assert planned.sent_bytes(symbols_of(planned)) < plain.sent_bytes(symbols_of(plain))
    values = symbols_of(planned)
    work = [op for op in planned.ops if op.kind is Kind.COMPUTE and op.part_of]
    assert all(op.mem.evaluate(values) > 0 and op.kernels for op in work)
    assert all(op.phase is plain.op(op.part_of).phase for op in work)


@pytest.mark.parametrize("kind", ["fm", "fm_fields", "nfm"])
def test_sums_that_cancel_are_never_encoded(kind):
    operators = [{"kind": kind} | ({"widths": [8]} if kind == "nfm" else {})]
    raw = MODEL.model_dump() | {"operators": operators}
    if kind == "fm_fields":
        raw["embedding"] |= {"placement": "field"}
    model = parse_model(raw, "x")
    for strategy in ("des_all_reduce", "des_reduce_scatter", "table_wise", "row_wise", "mesh"):
        with pytest.raises(UsageError, match="sends no activations that can be encoded"):
            coded(plan(strategy, model), model, parse_codecs("activations=bf16"))
    rows = coded(plan("row_all_to_all", model), model, parse_codecs("activations=bf16"))
    assert rows.op("rows").size == u * group(2 * W)  # the receiver squares decoded rows, so nothing cancels


def test_without_codecs_a_plan_is_unchanged():
    planned = plan("des_all_reduce", MODEL)
    assert coded(planned, MODEL, CodecConfig()) is planned
    assert coded(planned, MODEL, parse_codecs("fp32")) is planned
    assert parse_codec("fp32").exact and not any(parse_codec(t).exact for t in ("bf16", "fp16", "fp6", "top_k:0.5"))


def test_a_coded_plan_says_that_it_is_not_equivalent():
    assert "not equivalent" in of("des_all_reduce", "bf16").caveat


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("zip", "use fp32, bf16, fp16, fp6, top_k:0.25, threshold:0.99 or pruning:0.8"),
        ("top_k", "use fp32"),
        ("top_k:1.5", "between 0 and 1, such as top_k:0.25"),
        ("pruning:x", "between 0 and 1"),
        ("threshold:0.9:0", "a number of steps, such as threshold:0.99:1000"),
        ("activations=threshold:0.9", "is for dense, not for activations"),
        ("dense=top_k:0.1", "is for activations and gradients, not for dense"),
        ("rows=bf16", "'rows' is no buffer; codecs are for activations, gradients, dense"),
        ("activations=bf16,fp16", "write them as activations=bf16,dense=threshold:0.99"),
    ],
)
def test_a_mistake_in_a_codec_is_explained(text, problem):
    with pytest.raises(UsageError, match=problem):
        parse_codecs(text)


def test_one_codec_for_all_applies_wherever_it_may():
    assert str(parse_codecs("top_k:0.25")) == "activations=top_k:0.25,gradients=top_k:0.25"
    assert str(parse_codecs("dense=threshold:0.9, activations=fp32")) == "dense=threshold:0.9:1000"


def test_a_requested_codec_without_values_to_encode_is_a_mistake():
    with pytest.raises(UsageError, match="des_all_reduce of deepfm sends no gradients that can be encoded so"):
        of("des_all_reduce", "activations=bf16,gradients=bf16")
    assert of("des_all_reduce", "bf16").ops != plan("des_all_reduce", MODEL).ops


def test_sums_that_are_divided_and_vectors_that_carry_bag_sizes_are_not_encoded():
    raw = MODEL.model_dump() | {"operators": [{"kind": "mlp", "widths": [8]}]}
    raw["embedding"] = raw["embedding"] | {"pooling": "mean"}
    mean = parse_model(raw, "x")
    with pytest.raises(UsageError, match="sends no activations"):
        coded(plan("table_wise", mean), mean, parse_codecs("activations=bf16"))
    partials = coded(plan("des_all_reduce", mean), mean, parse_codecs("activations=bf16")).op("partials")
    assert partials.size == symbols.B * group(2 * symbols.H1)
    raw["embedding"] = raw["embedding"] | {"pooling": "attention"}
    attention = parse_model(raw, "x")
    with pytest.raises(UsageError, match="sends no activations"):
        coded(plan("des_all_reduce", attention), attention, parse_codecs("activations=top_k:0.5"))
