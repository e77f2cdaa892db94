"""FM, DeepFM and DCN against DeepCTR-Torch: outputs, gradients and training, on one process and on two."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from des_ref.certify.case import SEED, Case
from des_ref.certify.compare import State, compare, distance, reference_states
from des_ref.certify.show import passed
from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.data.synthetic import Zipf
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES
from des_ref.substitution.owned import OwnedOccurrences, bag_sizes
from dessim.trace.schema import PREFETCH
from dessim.workload.model import Model, parse_model
from tests.des_ref.ranks import on_ranks

if TYPE_CHECKING:
    from tests.des_ref.deepctr import DeepCtr

FIELDS, WIDTH, SAMPLES, STEPS = 5, 4, 24, 2
LR, FM, FM_FIELDS = {"kind": "lr"}, {"kind": "fm"}, {"kind": "fm_fields"}
MLP, CROSS = {"kind": "mlp", "widths": [6, 3]}, {"kind": "cross", "layers": 3}
# Operators, placement, pooling, ids a field. DeepCTR's FM is over pooled fields; with one id a field it equals ours.
MODELS: dict[str, tuple[list[dict[str, Any]], str, str, float]] = {
    "fm": ([LR, FM], "hash", "sum", 1.0),
    "deepfm": ([LR, FM, MLP], "hash", "sum", 1.0),
    "deepfm, fields pooled": ([LR, FM_FIELDS, MLP], "field", "sum", 2.0),
    "dcn": ([CROSS, MLP], "hash", "sum", 1.0),
    "dcn, fields pooled": ([CROSS, MLP], "hash", "sum", 2.0),
    "dcn, means of fields": ([CROSS, MLP], "hash", "mean", 2.0),
}
EXACT = [name for name in STRATEGIES if name != "ps_async"]


def model_of(name: str) -> Model:
    operators, placement, pooling, ids = MODELS[name]
    return parse_model(
        {
            "schema_version": 1,
            "name": name,
            "input": {"fields": FIELDS, "ids_per_sample": FIELDS * ids},
            "embedding": {"width": WIDTH, "placement": placement, "pooling": pooling},
            "operators": operators,
        },
        name,
    )


def case_of(name: str, strategy: str = "des_all_reduce") -> Case:
    return Case(2, STEPS, name, strategy, "cpu", optimizer="adagrad")


@cache
def batches(name: str) -> list[Batch]:
    data = Zipf(FIELDS, MODELS[name][3], 60.0, 1.05, SEED)
    return [data.examples(SAMPLES, part).take(torch.arange(SAMPLES)) for part in range(STEPS)]


def peer_of(name: str) -> DeepCtr:
    """DeepCTR's model over all ids of the batches, with its own initial values."""
    ids, fields = (torch.cat([getattr(b, what) for b in batches(name)]) for what in ("ids", "field"))
    vocabulary, place = torch.unique(ids, return_inverse=True)
    field_of = torch.empty_like(vocabulary)
    field_of[place] = fields
    bags = torch.cat([torch.bincount(b.sample * FIELDS + b.field) for b in batches(name)])
    torch.manual_seed(SEED)
    # Importing DeepCTR would delay every worker's start.
    from tests.des_ref.deepctr import DeepCtr

    return DeepCtr(model_of(name), vocabulary, field_of, int(bags.max()))


def trained_peer(name: str) -> Iterator[State]:
    """DeepCTR's training, starting from our initial values."""
    case, network, peer = case_of(name), Network(model_of(name), SEED, torch.float64, "cpu"), peer_of(name)
    vocabulary = torch.unique(torch.cat([b.ids for b in batches(name)]))
    table = network.new_table(case.optimizers().rows, case.optimizers().init_std)
    rows = table.find_or_insert(vocabulary)
    values = {column: table.columns[column][rows] for column in network.row_widths}
    values |= {f"dense.{i}": p.detach() for i, p in enumerate(network.dense_parameters)}
    peer.write(network.dense_names, values)
    return peer.train(network.dense_names, case.optimizers(), batches(name))


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_trains_like_deepctr(name: str) -> None:
    ours = list(reference_states(case_of(name), model_of(name), batches(name)))
    for a, b in zip(ours, trained_peer(name), strict=True):
        assert a.grads.keys() == b.grads.keys() and a.loss == pytest.approx(b.loss, abs=1e-12)
        assert distance(a.grads, b.grads) < 1e-12 and distance(a.parameters, b.parameters) < 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_our_network_with_deepctrs_weights_gives_its_outputs(name: str) -> None:
    peer = peer_of(name)
    # Its own initial values are too small to distinguish operators, and its biases are 0.
    for p in peer.net.parameters():
        torch.nn.init.normal_(p.data, std=0.5)
    network, batch = Network(model_of(name), SEED, torch.float64, "cpu"), batches(name)[0]
    theirs = peer.read(network.dense_names, lambda p: p.data)
    for i, p in enumerate(network.dense_parameters):
        p.data.copy_(theirs[f"dense.{i}"])
    vocabulary = torch.unique(torch.cat([b.ids for b in batches(name)]))
    inverse = torch.searchsorted(vocabulary, batch.ids)
    sizes = bag_sizes(batch.sample * FIELDS + batch.field, len(batch) * FIELDS) if network.model.pools_mean else None
    owned = OwnedOccurrences.of(batch.sample, batch.field, inverse, SAMPLES, FIELDS, sizes)
    with torch.no_grad():
        logits = network.tail(network.partials({column: theirs[column] for column in network.row_widths}, owned))
        probabilities = peer.probabilities(batch)
    assert probabilities.std() > 0.01
    torch.testing.assert_close(logits.sigmoid(), probabilities, atol=1e-12, rtol=1e-12)


def _certificates(peers: Path, comm: Comm) -> dict[str, Any]:
    prefetch, found = comm.separate_group(PREFETCH), {}
    for name, truth in torch.load(peers, weights_only=True).items():
        states = [State(**state) for state in truth]
        for strategy in EXACT:
            case, model = case_of(name, strategy), model_of(name)
            found[f"{strategy}: {name}"] = compare(
                case, model, comm, prefetch=prefetch, batches=batches(name), truth=states
            )
    return found


def _plain(state: State) -> dict[str, Any]:
    return {"loss": state.loss, "grads": dict(state.grads), "parameters": dict(state.parameters)}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Certificates of every strategy on two ranks, with DeepCTR in place of the reference."""
    peers = tmp_path_factory.mktemp("peers") / "states.pt"
    # Trained here, so that no rank need import DeepCTR.
    torch.save({name: [_plain(state) for state in trained_peer(name)] for name in MODELS}, peers)
    return on_ranks(2, tmp_path_factory.mktemp("deepctr"), partial(_certificates, peers))[0]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", EXACT)
def test_two_ranks_train_like_deepctr(strategy: str, certificates: dict[str, Any]) -> None:
    for name in MODELS:
        found = certificates[f"{strategy}: {name}"]
        assert passed(found) and max(found["max_grad_diff"], found["max_loss_diff"]) < 1e-12, name
