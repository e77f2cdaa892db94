"""Dense features in real training: certificates, bytes, samples and their files, evaluation and checkpoints."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref import train
from des_ref.certify.case import Case, batches
from des_ref.certify.compare import reference_states
from des_ref.certify.group import certify, certify_all
from des_ref.certify.show import passed
from des_ref.comm import Comm, open_comm
from des_ref.data.batch import slice_of
from des_ref.data.criteo import CriteoFile
from des_ref.data.criteo_rows import Integers
from des_ref.data.synthetic import Zipf
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES, VARIANTS, build
from des_ref.strategies.base import Optimizers
from dessim.errors import UsageError
from dessim.workload.model import load_model
from dessim.workload.strategies import spec_of
from dessim.workload.strategies.parts import dense_weights
from tests.bench.kills import difference, parameters
from tests.des_ref.certified import assert_certified
from tests.des_ref.ranks import on_ranks
from tests.des_ref.small_models import THREE_TABLES

FEATURES = 5
HEAD = f"""
schema_version = 2
name = "dense"
[input]
batch_per_worker = 64
[dense]
features = {FEATURES}
widths = [6, 8]
[embedding]
width = 8
{THREE_TABLES}
"""
DLRM = '[[operators]]\nkind = "lr"\n[[operators]]\nkind = "dot"\nwidths = [16, 8]\n'
DCN = """[[operators]]
kind = "cross_v2"
layers = 2
rank = 3
strategy = "mesh"
[[operators]]
kind = "mlp"
widths = [8, 4]
dropout = 0.2
strategy = "mesh"
"""
OTHERS = '[[operators]]\nkind = "inner"\nwidths = [8]\n[[operators]]\nkind = "cin"\nwidths = [4, 3]\n'
SYNCHRONOUS = [
    *(name for name in (*STRATEGIES, *VARIANTS) if spec_of(name).synchronous and "cache_rows" not in name),
    "row_all_gather+cache_rows=80",
]


def own_features_for_all_samples() -> None:
    """Gather the dense features and discard them: each worker's own stand for those of the other samples."""
    from des_ref.strategies import des

    right = des.gather_dense

    def gather(batch: Any, comm: Any) -> Any:
        _, ready = right(batch, comm)
        assert ready is not None
        ready.wait()
        return batch.dense.repeat(comm.world_size, 1), None

    des.gather_dense = gather


def model_file(folder: Path, operators: str) -> str:
    path = folder / f"dense-{len(operators)}.toml"
    path.write_text(HEAD + operators)
    return str(path)


@pytest.fixture
def dlrm(tmp_path: Path) -> Path:
    return Path(model_file(tmp_path, DLRM))


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "operators", "strategies"),
    [
        (2, DLRM, SYNCHRONOUS),
        (
            4,
            DCN,
            ["des_all_reduce", "des_reduce_scatter", "mesh", "table_wise", "row_all_to_all+look_ahead", "ps_sync"],
        ),
        (8, DLRM, ["des_all_reduce", "table_wise"]),
        (2, OTHERS, ["des_all_reduce", "mesh", "row_wise"]),
    ],
    ids=["dlrm on 2", "dcn on 4", "dlrm on 8", "others on 2"],
)
def test_dense_inputs_pass_the_certificate_with_the_bytes_of_their_formulas(
    ranks: int, operators: str, strategies: list[str], tmp_path: Path
) -> None:
    file = model_file(tmp_path, operators)
    for result in certify_all([Case(ranks, 2, file, name, "cpu", small=True) for name in strategies]):
        assert_certified(result)
        gathered = [op for op in result["ops"] if op["name"] == "dense_inputs"]
        assert bool(gathered) == (result["strategy"] in ("des_all_reduce", "mesh"))
        # In 2 steps every rank gathers 8 samples of 3 features: a small case has no more.
        assert all(op["recorded_bytes"] == 2 * ranks * 8 * 3 * 4 for op in gathered)


def test_the_certificate_fails_with_the_dense_features_of_other_samples(dlrm: Path) -> None:
    sabotage = own_features_for_all_samples
    result = certify(Case(2, 2, str(dlrm), "des_all_reduce", "cpu", small=True, sabotage=sabotage))
    assert not passed(result) and result["bytes_match"] and result["max_loss_diff"] > 1e-9


def test_des_with_field_placement_and_the_asynchronous_server(dlrm: Path) -> None:
    ways = ("des_all_reduce", "des_reduce_scatter")
    cases = [Case(4, 2, str(dlrm), way, "cpu", placement="field", small=True) for way in ways]
    cases += [Case(ranks, 3, str(dlrm), "ps_async", "cpu", small=True) for ranks in (1, 2)]
    results = certify_all(cases)
    assert all(passed(result) for result in results), results
    assert all(result["max_param_diff"] < 1e-12 for result in results[:3])


def test_shipped_models_with_dense_inputs_pass_the_certificate() -> None:
    strategies = ("des_all_reduce", "mesh", "table_wise", "row_all_to_all", "ps_sync")
    names = ("criteo_1tb", "dlrm_dcnv2")
    cases = [Case(2, 2, name, strategy, "cpu", small=True) for name in names for strategy in strategies]
    assert all(case.load().dense is not None for case in cases)
    results = certify_all(cases)
    assert all(passed(result) for result in results), results


def test_the_network_has_the_weights_of_the_plan_and_every_one_learns(tmp_path: Path) -> None:
    for operators in (DLRM, DCN, OTHERS):
        model = load_model(model_file(tmp_path, operators))
        network = Network(model, 1, torch.float64, "cpu")
        assert sum(p.numel() for p in network.dense_parameters) == dense_weights(model).evaluate(model.symbols(2))
        with open_comm("cpu") as comm:
            case = Case(1, 1, "", "mesh")
            (state,) = reference_states(case, model, batches(case, model, comm))
        of_bottom = [i for i, name in enumerate(network.dense_names) if name.startswith("bottom.")]
        assert len(of_bottom) == 4 and all(state.grads[f"dense.{i}"].abs().max() > 0 for i in of_bottom)


@pytest.mark.parametrize("name", ["criteo_kaggle", "criteo_1tb"])
def test_shipped_models_train_at_full_size(name: str) -> None:
    """Rows are created when they occur, so a table of 40 million rows takes no memory before."""
    model = load_model(name)
    with open_comm("cpu") as comm:
        strategy = build("table_wise", Network(model, 1, torch.float32, "cpu"), Optimizers(), comm)
        source = Zipf.of(model, 1).open(64)
        result = strategy.step(next(source.batches(0, 32, 0, 1)))
    assert math.isfinite(float(result.loss)) and len(strategy.table) <= 32 * 26


def _predicted(file: Path, comm: Comm) -> dict[str, list[float]]:
    model = load_model(file)
    seen, unseen = batches(Case(comm.world_size, 2, "", ""), model, comm)
    logits = {}
    for name in ("des_all_reduce", "des_reduce_scatter", "mesh", "table_wise", "ps_sync"):
        strategy = build(name, Network(model, 5, torch.float64, "cpu"), Optimizers(), comm)
        strategy.step(slice_of(seen, comm.rank, comm.world_size))
        logits[name] = strategy.predict(slice_of(unseen, comm.rank, comm.world_size)).tolist()
    return logits


def test_predictions_use_the_dense_features_of_every_worker(dlrm: Path, tmp_path: Path) -> None:
    rendezvous = tmp_path / "rendezvous"
    rendezvous.mkdir()
    first, second = on_ranks(2, rendezvous, partial(_predicted, dlrm))
    assert first == second
    with open_comm("cpu") as comm:
        alone = _predicted(dlrm, comm)
    for name, logits in first.items():
        assert logits == pytest.approx(alone["mesh"], abs=1e-12), name


@pytest.mark.parametrize("strategy", ["des_all_reduce", "ps_sync"])
def test_runs_resume_bit_identically(
    strategy: str, dlrm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *more: str) -> dict[str, Any]:
        arguments = ["--data", "synthetic", "--model", str(dlrm), "--strategy", strategy, "--batch", "200", *more]
        config = tmp_path / "run.toml"
        config.write_text("[data]\nsamples = 2000\n[checkpoint]\nevery = 5\nkeep = 9\n")
        folder = ["--checkpoint", str(tmp_path / name), "--device", "cpu", "--json"]
        assert train.main(["--config", str(config), *arguments, *folder]) == 0
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    whole = run("whole", "--steps", "14")
    run("parts", "--steps", "5")
    resumed = run("parts", "--steps", "14", "--resume")
    assert resumed["resumed_from_step"] == 5 and resumed["auc"] == whole["auc"]
    ours = parameters(tmp_path / "whole")
    assert difference(parameters(tmp_path / "parts"), ours) == 0
    assert ("bottom.layers.0/exp_avg" in ours) == (strategy != "ps_sync")  # servers keep one vector of all weights


def row(i: int) -> bytes:
    integers = [str(i), "", "-2", "100", "9" * 30, *["7"] * 8]
    return "\t".join([str(i % 2), *integers, *[f"{i % 5 + c:x}" for c in range(26)]]).encode() + b"\n"


DLRM_OF_CRITEO = "".join(
    [
        'schema_version = 2\nname = "small"\n[dense]\nfeatures = 13\nwidths = [8, 4]\n[embedding]\nwidth = 4\n',
        *("[[tables]]\nrows = 50\n" for _ in range(26)),
        '[[operators]]\nkind = "dot"\nwidths = [8]\n',
    ]
)


def test_a_criteo_file_and_a_stream_of_it_train_a_model_with_dense_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, model = tmp_path / "train.txt", tmp_path / "small.toml"
    file.write_bytes(b"".join(row(i) for i in range(200)))
    model.write_text(DLRM_OF_CRITEO)
    source = CriteoFile(file, integers=Integers.DENSE)
    halves = [next(source.batches(0, 16, rank, 2)) for rank in range(2)]
    whole = next(source.batches(0, 16, 0, 1))
    dense = [half.dense for half in halves if half.dense is not None]
    assert whole.dense is not None and torch.equal(torch.cat(dense), whole.dense)
    common = ["--model", str(model), "--batch", "32", "--device", "cpu", "--json"]
    assert train.main(["--data", str(file), "--epochs", "2", *common]) == 0
    assert json.loads(capsys.readouterr().out)["samples"]["train"] == 160
    for inputs in (["--input", str(file)], ["--steps", "4"]):
        assert train.main(["--data", "stream", *inputs, *common]) == 0
        assert json.loads(capsys.readouterr().out)["steps"] in (4, 6)


def test_data_without_dense_features_are_refused(dlrm: Path) -> None:
    with pytest.raises(UsageError, match=r"dense has dense.features = 5, but ml-100k has no dense features"):
        train.main(["--data", "ml-100k", "--model", str(dlrm), "--device", "cpu"])
