"""Plans against the method's table of bytes (Rong et al., SIGIR 2020, as derived for this project).

The table counts an id as k bytes and a row as D floats; setting c = 0 and W = D turns the plans' sizes into it. It
counts the parameter server without a local share, the plans with it: a factor (N-1)/N.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.errors import FormulaError, UsageError
from dessim.trace.schema import Kind
from dessim.workload.model import load_model, parse_model
from dessim.workload.options import Options
from dessim.workload.plan import Plan, Traffic, compute
from dessim.workload.strategies import STRATEGIES, find_spec, parse_strategy, plan, spec_of
from dessim.workload.strategies.table_row_wise import TABLE_ROW_WISE

MIB = 2**20
KINDS = {
    "lr": [{"kind": "lr"}],
    "fm+lr": [{"kind": "lr"}, {"kind": "fm"}],
    "deepfm": [{"kind": "lr"}, {"kind": "fm"}, {"kind": "mlp", "widths": [400]}],
}


def model_of(operators):
    raw = {
        "schema_version": 1,
        "name": "x",
        "input": {"fields": 26, "ids_per_sample": 26},
        "embedding": {"width": 16},
        "operators": operators,
    }
    return parse_model(raw, "x.toml")


def symbols(N, B, F, m, D, H1=0.0):
    """Symbols of the method's table: no coordinates, no linear weight in a row, no id twice."""
    values = dict(N=N, B=B, F=F, m=m, D=D, W=D, E=0, H1=H1, u=m * B / N, U=m * B, k=8, c=0, s=4, q=F, A=0, P=0, Z=0)
    return {name: float(value) for name, value in values.items()}


def sparse_mib(strategy, operators, values):
    """MiB that a worker sends for ids and for rows, or for what replaces rows."""
    p = plan(strategy, model_of(operators))
    return (p.sent_bytes(values, Traffic.IDS) + p.sent_bytes(values, Traffic.SPARSE)) / MIB


ONE_ID_A_FIELD = symbols(N=8, B=32768, F=26, m=26, D=16, H1=400)
MULTI_HOT = symbols(N=8, B=32768, F=50, m=500, D=8, H1=128)


@pytest.mark.parametrize(
    ("values", "strategy", "kinds", "printed", "half_a_digit"),
    [
        (ONE_ID_A_FIELD, "ps_sync", "fm+lr", 14.6 * 7 / 8, 0.05),
        (ONE_ID_A_FIELD, "table_wise", "fm+lr", 12.1, 0.05),
        (ONE_ID_A_FIELD, "row_wise", "fm+lr", 91.7, 0.05),
        (ONE_ID_A_FIELD, "mesh", "fm+lr", 91.7, 0.05),
        (ONE_ID_A_FIELD, "des_all_reduce", "lr", 0.9, 0.05),
        # 4.648 and 92.148: the example was rounded twice (4.65, 92.15) before it was printed.
        (ONE_ID_A_FIELD, "des_all_reduce", "fm+lr", 4.7, 0.055),
        (ONE_ID_A_FIELD, "des_all_reduce", "deepfm", 92.2, 0.055),
        (MULTI_HOT, "ps_sync", "fm+lr", 156 * 7 / 8, 0.5),
        (MULTI_HOT, "row_all_to_all", "fm+lr", 123, 0.5),
        (MULTI_HOT, "table_wise", "fm+lr", 25, 0.5),
        (MULTI_HOT, "row_wise", "fm+lr", 101, 0.5),
        (MULTI_HOT, "des_all_reduce", "lr", 14, 0.5),
        (MULTI_HOT, "des_all_reduce", "fm+lr", 16, 0.5),
        (MULTI_HOT, "des_all_reduce", "deepfm", 44, 0.5),
    ],
)
def test_plans_reproduce_the_worked_examples(values, strategy, kinds, printed, half_a_digit):
    assert sparse_mib(strategy, KINDS[kinds], values) == pytest.approx(printed, abs=half_a_digit)


def test_hash_placement_pays_for_w1():
    p = plan("des_all_reduce", model_of(KINDS["deepfm"]))
    v = ONE_ID_A_FIELD
    assert p.sent_bytes(v, Traffic.DENSE) == pytest.approx(2 * 7 / 8 * 400 * 26 * 16 * 4)


sizes = st.builds(
    symbols,
    N=st.integers(1, 4096),
    B=st.integers(1, 10**7),
    F=st.integers(1, 500),
    m=st.integers(1, 2000),
    D=st.integers(1, 512),
    H1=st.integers(1, 2048),
)


@given(sizes)
def test_every_strategy_sends_the_bytes_of_its_formula_in_the_table(v):
    f, local = (v["N"] - 1) / v["N"], v["B"] / v["N"]
    ids = f * local * v["m"] * v["k"]
    rows = v["D"] * v["s"]
    K = 1 + (v["D"] + 1) + v["H1"]
    expected = {
        "ps_sync": f * 2 * v["u"] * (rows + v["k"]),
        "ps_async": f * 2 * v["u"] * (rows + v["k"]),
        "data_parallel": (v["N"] - 1) * v["u"] * (rows + v["k"]),
        "row_all_to_all": ids + 2 * f * v["u"] * rows,
        "row_all_gather": f * (v["u"] + v["U"]) * v["k"] + 2 * f * v["U"] * rows,
        "table_wise": ids + 2 * f * local * v["F"] * rows,
        "row_wise": ids + 2 * f * v["B"] * v["F"] * rows,
        "mesh": ids + 2 * f * v["B"] * v["F"] * rows,
        "des_all_reduce": ids + 2 * f * v["B"] * K * v["s"],
        "des_reduce_scatter": ids + 2 * f * v["B"] * K * v["s"],
    }
    assert expected.keys() == STRATEGIES.keys()
    for strategy, size in expected.items():
        assert sparse_mib(strategy, KINDS["deepfm"], v) * MIB == pytest.approx(size, rel=1e-9), strategy


@given(sizes)
def test_des_beats_row_wise_when_its_buffer_is_narrower_and_table_wise_while_it_is_narrower_by_n(v):
    K, operand = 1 + (v["D"] + 1), v["F"] * v["D"]
    des, row, table = (sparse_mib(s, KINDS["fm+lr"], v) for s in ("des_all_reduce", "row_wise", "table_wise"))
    if v["N"] > 1 and abs(operand - K) > 1e-6:
        assert (des < row) == (operand > K)
    if v["N"] > 1 and abs(operand - K * v["N"]) > 1e-6:
        assert (des < table) == (operand > K * v["N"])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "name", ["deepfm", "fm", "deepfm_multihot", "dcn", "xdeepfm", "deepfm_fields", "dcn_v2_low_rank"]
)
class TestEveryPlan:
    def test_its_formulas_need_only_known_symbols(self, strategy, name):
        model = load_model(name)
        values = model.symbols(16)
        for op in plan(strategy, model).ops:
            for size in (op.size, op.flops, op.mem):
                assert size.evaluate(values) >= 0, (op.name, size)

    def test_one_worker_sends_nothing(self, strategy, name):
        model = load_model(name)
        assert plan(strategy, model).sent_bytes(model.symbols(1)) == 0

    def test_its_traffic_adds_up(self, strategy, name):
        model = load_model(name)
        values, p = model.symbols(16), plan(strategy, model)
        assert sum(p.sent_bytes(values, t) for t in Traffic) == pytest.approx(p.sent_bytes(values), rel=1e-12)
        assert p.sent_bytes(values, Traffic.NONE) == 0

    def test_collectives_and_compute_ops_have_consistent_fields(self, strategy, name):
        p = plan(strategy, load_model(name))
        assert p.strategy == strategy
        for op in p.ops:
            is_collective = op.kind is Kind.COLLECTIVE
            assert is_collective == (op.collective is not None) == (op.stream == "comm")
            assert is_collective == (op.traffic is not Traffic.NONE)
            assert is_collective or op.kernels > 0

    def test_every_op_leads_to_the_last(self, strategy, name):
        p = plan(strategy, load_model(name))
        needed, queue = set(), [p.ops[-1].name]
        while queue:
            name = queue.pop()
            needed.add(name)
            queue += [d for d in p.op(name).deps if d not in needed]
        assert needed == {op.name for op in p.ops}


def test_the_extra_floats_of_fm_travel_with_the_bag():
    v = {**MULTI_HOT, "c": 0.0}
    fm, lr = ({**v, "E": e} for e in (1.0, 0.0))
    for strategy in ("table_wise", "row_wise", "mesh"):
        more = sparse_mib(strategy, KINDS["fm+lr"], fm) - sparse_mib(strategy, KINDS["fm+lr"], lr)
        bags = v["B"] / v["N"] if strategy == "table_wise" else v["B"]
        assert more * MIB == pytest.approx(2 * 7 / 8 * bags * v["F"] * v["s"])


def test_servers_hold_equal_shards_of_the_dense_parameters():
    model = load_model("deepfm")
    values, p = model.symbols(7), plan("ps_sync", model)
    weights = values["P"] + values["H1"] * values["F"] * values["D"]
    shard = p.op("pull_dense").bytes(values) / values["N"] / values["s"]
    assert shard == int(shard) and weights <= 7 * shard < weights + 7
    assert p.op("push_dense").size == p.op("pull_dense").size


def test_the_pull_of_dense_parameters_waits_for_nothing():
    assert plan("ps_sync", load_model("deepfm")).op("pull_dense").deps == ()


# Floats a sample that the buffer moves, counted by hand from the model files: F = 39, D = 16, H1 = 400, L = 3, r = 32.
BUFFER = {
    "lr": 1,
    "fm": 1 + 17,
    "nfm": 1 + 2 * 16,
    "wide_deep": 1 + 400,
    "deepfm": 1 + 17 + 400,
    "deepfm_fields": 1 + 17 + 400,
    "dcn": 4 + 400,
    "dcn_v2": 39 * 16,  # the operand, which the mlp reads too
    "dcn_v2_low_rank": 1 + 400,
    "xdeepfm": 39 * 16 + 1,
    "dlrm": 39 * 16,
    "pnn": 39 * 16,
}


@pytest.mark.parametrize("name", BUFFER)
def test_the_buffer_of_each_model_has_the_width_of_the_method(name):
    model = load_model(name)
    values, p = model.symbols(8), plan("des_all_reduce", model)
    assert p.op("partials").bytes(values) == 8 * 4096 * BUFFER[name] * 4
    shared = {"dcn": (4 + 400) * 624, "wide_deep": 400 * 624, "deepfm": 400 * 624}.get(name)
    sums = [op for op in p.ops if op.name == "shared_grad"]
    assert [op.bytes(values) for op in sums] == ([shared * 4] if shared else [])


def test_low_rank_crossing_sends_its_rank_for_each_layer_in_each_direction():
    model = load_model("dcn_v2_low_rank")
    values, p = model.symbols(8), plan("des_reduce_scatter", model)
    rounds = [op.name for op in p.collectives if op.name.startswith("round")]
    assert rounds == ["round_1", "round_2", "round_3", "round_3_grad", "round_2_grad", "round_1_grad"]
    assert all(p.op(name).bytes(values) == 8 * 4096 * 32 * 4 for name in rounds)
    legs = [op.name for op in p.ops if op.name.startswith("local_backward")]
    assert legs == ["local_backward", "local_backward_3", "local_backward_2", "local_backward_1"]


@pytest.mark.parametrize(("pooling", "first", "last"), [("max", 26 * 16, 26 * 16), ("attention", 26, 26 * 17)])
def test_pooling_that_is_no_sum_needs_a_maximum_first(pooling, first, last):
    model = model_of([{"kind": "mlp", "widths": [400]}])
    model = model.model_copy(update={"embedding": model.embedding.model_copy(update={"pooling": pooling})})
    values, p = model.symbols(4, 100), plan("des_reduce_scatter", model)
    assert [op.name for op in p.collectives if op.name.startswith("round")] == ["round_1"]  # a maximum has no gradient
    assert p.op("round_1").bytes(values) == 100 * first * 4 and p.op("partials").bytes(values) == 100 * last * 4
    with pytest.raises(UsageError, match=f'row_wise moves sums of rows, x has pooling = "{pooling}"'):
        plan("row_wise", model)


def test_a_softmax_over_ids_sends_three_floats_a_field_and_the_gradient_of_codes():
    model = load_model("fvae")
    values, p = model.symbols(8), plan("des_reduce_scatter", model)
    samples, fields, latent = 8 * 512, 4, 64
    floats = {"scores_max": fields, "scores_sum": 2 * fields, "codes": latent, "codes_grad": latent, "labels": fields}
    assert {name: p.op(name).bytes(values) for name in floats} == {n: samples * k * 4 for n, k in floats.items()}
    # With replicated tails every worker has all codes, and one AllReduce sends what the two messages for codes do.
    ar = plan("des_all_reduce", model)
    assert "codes" not in {op.name for op in ar.ops}
    assert ar.sent_bytes(values, Traffic.SPARSE) == pytest.approx(p.sent_bytes(values, Traffic.SPARSE), rel=1e-12)
    # Outputs make rows wider, and each worker scores the whole batch against its share of the candidates.
    assert values["W"] == 64 + (latent + 1) and values["P"] == 256 + 256 * 128 + 128 + 128 * 128 + 128
    flops = p.op("scores").flops.evaluate(values)
    assert flops == pytest.approx(samples * values["U"] / 8 * (2 * latent + 1))


def test_a_softmax_over_ids_is_refused_by_strategies_that_move_inputs():
    with pytest.raises(UsageError, match="table_wise moves inputs to where their samples are, and fvae scores every"):
        plan("table_wise", load_model("fvae"))


def test_an_operator_may_be_computed_above_the_operand():
    """If the first layer is wider than the operand, sending pooled vectors takes fewer bytes and no gradient."""
    raw = load_model("deepfm").model_dump()
    wide = {"kind": "mlp", "widths": [1024, 64]}
    models = [
        parse_model(raw | {"operators": [{"kind": "lr"}, {"kind": "fm"}, wide | {"strategy": strategy}]}, "x.toml")
        for strategy in ("des", "mesh")
    ]
    assert [model.needs_operand for model in models] == [False, True]
    of_des, of_mesh = (plan("des_all_reduce", model).sent_bytes(model.symbols(8)) for model in models)
    values = models[0].symbols(8)
    sent = 2 * 7 / 8 * values["s"]
    pooled = values["F"] * values["D"]
    less = sent * (values["B"] * (1024 - pooled) + 1024 * pooled)
    assert of_des - of_mesh == pytest.approx(less, rel=1e-9)
    one, other = (plan("table_wise", model).sent_bytes(model.symbols(8)) for model in models)
    assert one == other


@pytest.mark.parametrize("pooling", ["max", "attention"])
def test_pooling_of_whole_fields_is_local(pooling):
    raw = load_model("deepfm_fields").model_dump()
    raw["embedding"]["pooling"] = pooling
    whole, sums = parse_model(raw, "x.toml"), load_model("deepfm_fields")
    assert not whole.needs_operand
    values = whole.symbols(8)
    of_sums, of_whole = (plan("des_reduce_scatter", model).sent_bytes(values) for model in (sums, whole))
    few = 2 * 7 / 8 * values["D"] * values["s"] if pooling == "attention" else 0  # the gradient of its weights
    assert of_whole - of_sums == pytest.approx(few, abs=1e-3)


def test_both_kinds_of_des_send_the_same_sparse_bytes():
    model = load_model("deepfm")
    values = model.symbols(32)
    ar, rs = (plan(s, model).sent_bytes(values, Traffic.SPARSE) for s in ("des_all_reduce", "des_reduce_scatter"))
    assert ar == pytest.approx(rs, rel=1e-12)


def test_unknown_names_appear_in_errors():
    with pytest.raises(UsageError, match="des_all_reduce"):
        plan("des", load_model("fm"))
    with pytest.raises(FormulaError, match="plans no op 'pooled'"):
        plan("des_all_reduce", load_model("fm")).op("pooled")


def test_a_plan_in_the_wrong_order_fails_an_assertion():
    with pytest.raises(AssertionError, match="waits for"):
        Plan("x", (compute("a", "forward", "b"), compute("b", "forward")))


def test_specs_describe_their_plans():
    model = load_model("deepfm")
    for name, spec in STRATEGIES.items():
        planned = plan(name, model)
        assert spec.name == name == planned.strategy and planned.pipelines == spec.pipelines
        assert spec.has_servers or not spec.dedicated_servers
        assert not spec.traced_as or STRATEGIES[spec.traced_as].synchronous
        assert spec.substitutes == any(op.name == "partials" for op in planned.ops)
        assert spec.table_placement in (None, planned.placement)
    assert TABLE_ROW_WISE.table_placement is TABLE_ROW_WISE.plan(model, Options()).placement


def test_a_spec_is_found_by_name_with_or_without_options():
    assert spec_of("ps_sync+hot_rows=10") is STRATEGIES["ps_sync"] is find_spec("ps_sync")
    assert parse_strategy("ps_sync+hot_rows=10") == ("ps_sync", Options(hot_rows=10))
    assert find_spec("nothing") is None
    with pytest.raises(UsageError, match="unknown strategy 'nothing'; choose from des_all_reduce"):
        spec_of("nothing+look_ahead")
