"""Model files: their contents, and one clear line for each mistake."""

from __future__ import annotations

import copy
from importlib.resources import files

import numpy as np
import pytest

from dessim.errors import ModelError
from dessim.workload.model import load_model, parse_model

SHIPPED = sorted(p.name.removesuffix(".toml") for p in files("dessim.workload").joinpath("models").iterdir())
RAW = {
    "schema_version": 1,
    "name": "tiny",
    "input": {"fields": 4, "ids_per_sample": 6, "batch_per_worker": 32, "vocabulary": 1000, "skew": 1.0},
    "embedding": {"width": 8},
    "operators": [{"kind": "fm"}, {"kind": "mlp", "widths": [16, 8], "dropout": 0.1}, {"kind": "lr"}],
}


def changed(path, value):
    raw = copy.deepcopy(RAW)
    *parents, last = path
    inner = raw
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return raw


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_load_by_name(name):
    model = load_model(name)
    assert model.name == name
    assert all(np.isfinite(v) and v >= 0 for v in model.symbols(64).values())


def test_operators_are_sorted_in_the_order_of_the_buffer():
    model = parse_model(RAW, "m.toml")
    assert model.kinds == ("lr", "fm", "mlp")
    assert (model.row_widths, model.row_width) == ({"w": 1, "v": 8}, 9)


def test_symbols_of_a_small_model():
    s = parse_model(RAW, "m.toml").symbols(4, unique=lambda draws: draws)
    assert (s["N"], s["B"], s["F"], s["m"], s["D"], s["W"], s["H1"]) == (4, 128, 4, 6, 8, 9, 16)
    assert s["A"] == 16 * 8 + 8 * 1
    assert s["P"] == s["A"] + (16 + 8) + 1 + 1  # hidden biases, output bias, bias of the logit
    assert s["Z"] == 24
    assert (s["u"], s["U"]) == (32 * 6, 128 * 6)


def test_without_an_mlp_the_dense_tail_is_one_bias():
    s = load_model("fm").symbols(4)
    assert (s["P"], s["A"], s["Z"], s["H1"]) == (1, 0, 0, 0)


def test_placement_may_be_changed_where_operators_allow_it():
    fields = load_model("deepfm_fields")
    assert fields.placed(None) is fields and fields.symbols(4)["q"] == 39 / 4
    assert load_model("deepfm").placed("field").by_field
    with pytest.raises(ModelError, match=r'deepfm_fields: file: .*"fm_fields" needs placement = "field"'):
        fields.placed("hash")


@pytest.mark.parametrize(
    ("embedding", "operators", "said"),
    [
        ({"pooling": "max"}, [{"kind": "cross", "layers": 2}], 'operator "cross" works on sums: write pooling = "sum"'),
        ({"pooling": "median"}, [{"kind": "lr"}], "embedding.pooling"),
    ],
)
def test_pooling_that_does_not_fit_is_refused(embedding, operators, said):
    raw = RAW | {"embedding": {"width": 8, **embedding}, "operators": operators}
    with pytest.raises(ModelError, match=said):
        parse_model(raw, "m.toml")


@pytest.mark.parametrize(
    ("operators", "said"),
    [
        ([{"kind": "lr"}, {"widths": [4]}], 'operator "fvae" must be the only one: it learns the ids of a sample'),
        ([{"widths": [4], "alpha": [1.0]}], 'operator "fvae": alpha has 1 weights for 4 fields: write one'),
        ([{"widths": [4], "beta": -1}], "operators.0.beta"),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_refused(operators, said):
    operators = [o if "kind" in o else {"kind": "fvae", "latent": 2, **o} for o in operators]
    with pytest.raises(ModelError, match=said):
        parse_model(RAW | {"operators": operators}, "m.toml")


def test_low_rank_crossing_needs_the_operand_only_where_rows_are_spread_by_hash():
    model = load_model("dcn_v2_low_rank")
    assert not model.needs_operand and model.placed("hash").needs_operand


def test_the_global_batch_can_be_set():
    assert parse_model(RAW, "m.toml").symbols(4, batch=256)["B"] == 256


def test_pairs_a_worker_sees_agree_with_throwing_ids_at_workers():
    model, workers = parse_model(changed(("input", "ids_per_sample"), 12), "m.toml"), 5
    owners = np.random.default_rng(3).integers(0, workers, size=(40_000, 4, 3))
    assert (owners == 0).any(axis=2).sum(axis=1).mean() == pytest.approx(model.symbols(workers)["q"], rel=0.01)
    assert model.symbols(1)["q"] == 4


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("input", "feilds"), 4, "input.feilds"),
        (("colour",), "red", "colour"),
        (("schema_version",), 2, "schema_version"),
        (("name",), "", "name"),
        (("input", "fields"), 0, "input.fields"),
        (("input", "fields"), 2.5, "input.fields"),
        (("input", "ids_per_sample"), 0, "input.ids_per_sample"),
        (("input", "ids_per_sample"), 1e7, "ids_per_sample"),
        (("input", "ids_per_sample"), float("nan"), "ids_per_sample"),
        (("input", "ids_per_sample"), float("inf"), "ids_per_sample"),
        (("input", "batch_per_worker"), -1, "input.batch_per_worker"),
        (("input", "vocabulary"), 0, "input.vocabulary"),
        (("input", "skew"), -1, "input.skew"),
        (("embedding", "width"), 0, "embedding.width"),
        (("operators",), [], "operators"),
        (("operators",), [{"kind": "dlrm"}], "operators.0.kind"),
        (("operators",), [{"kind": "lr"}, {"kind": "lr"}], "operators"),
        (("operators",), [{"kind": "mlp"}], "operators.0"),
        (("operators",), [{"kind": "fm", "widths": [4]}], "operators.0"),
        (("operators",), [{"kind": "mlp", "widths": [0]}], "operators.0.widths"),
        (("operators",), [{"kind": "mlp", "widths": [4], "dropout": 1.0}], "operators.0.dropout"),
        (("operators",), [{"kind": "fm", "dropout": 0.5}], "operators.0"),
    ],
)
def test_a_mistake_is_named_with_its_key(path, value, named):
    with pytest.raises(ModelError) as caught:
        parse_model(changed(path, value), "m.toml")
    assert str(caught.value).startswith("m.toml: ")
    assert named in str(caught.value)


def test_all_mistakes_are_named_at_once():
    raw = changed(("input", "fields"), 0) | {"colour": "red"}
    with pytest.raises(ModelError, match=r"input\.fields.*; .*colour|colour.*; .*input\.fields"):
        parse_model(raw, "m.toml")


def test_an_unknown_name_lists_what_is_shipped():
    with pytest.raises(ModelError, match="shipped models: criteo_1tb, "):
        load_model("wide_and_deep")


def test_files_that_are_no_models_are_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(ModelError, match="not TOML"):
        load_model(broken)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(binary)


def test_precisions_set_the_bytes_of_values() -> None:
    raw = load_model("deepfm").model_dump(mode="json") | {"precision": {"dense": "bf16", "wire": "fp8"}}
    symbols = parse_model(raw, "mine.toml").symbols(4)
    assert [symbols[name] for name in ("s", "sr", "sd", "so")] == [1, 4, 2, 4]
    with pytest.raises(ModelError, match=r"precision.rows: tf32 is for dense layers alone"):
        parse_model(raw | {"precision": {"rows": "tf32"}}, "mine.toml")
    with pytest.raises(ModelError, match=r"precision.wier: "):
        parse_model(raw | {"precision": {"wier": "fp16"}}, "mine.toml")


def test_a_copy_has_the_costs_of_its_own_settings():
    model = load_model("deepfm")
    assert model.costs is model.costs  # derived once
    copied = model.model_copy(update={"operators": load_model("fm").operators})
    assert copied.costs == load_model("fm").costs != model.costs
    assert model == load_model("deepfm") and "costs" not in model.model_dump()
