"""Each substituted operator against its reference: values and gradients, for any split of the rows over workers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from des_ref.models.build import Network
from des_ref.substitution.attention_pool import AttentionPool
from des_ref.substitution.base import Plain
from des_ref.substitution.fm import Fm
from des_ref.substitution.owned import OwnedOccurrences, bag_sizes
from des_ref.substitution.whole_pool import WholeAttention
from dessim.errors import ModelError
from dessim.workload.model import Model, parse_model
from dessim.workload.operators import total

SAMPLES, FIELDS, VOCABULARY, WIDTH, HIDDEN = 5, 3, 12, 4, 6
# Occurrences: (sample, field, id); repeats of one id in one sample are legal.
OCCURRENCES = st.lists(
    st.tuples(st.integers(0, SAMPLES - 1), st.integers(0, FIELDS - 1), st.integers(0, VOCABULARY - 1)), max_size=60
)
Occurrences = list[tuple[int, int, int]]
OPERATORS: dict[str, list[dict[str, object]]] = {
    "lr": [{"kind": "lr"}],
    "fm": [{"kind": "fm"}],
    "nfm": [{"kind": "nfm", "widths": [HIDDEN, 3]}],
    "fm with nfm": [{"kind": "fm"}, {"kind": "nfm", "widths": [2]}],
    "cross": [{"kind": "cross", "layers": 3}],
    "mlp": [{"kind": "mlp", "widths": [HIDDEN, 3]}],
    "cross_v2": [{"kind": "cross_v2", "layers": 2}],
    "cross_v2 of low rank": [{"kind": "cross_v2", "layers": 3, "rank": 2}],
    "dot": [{"kind": "dot", "widths": [HIDDEN]}],
    "inner": [{"kind": "inner", "widths": [HIDDEN, 3]}],
    "cin": [{"kind": "cin", "widths": [4, 3]}],
    "head": [{"kind": "head", "module": f"{__name__}:make_head", "weights": 25, "multiply_adds": 24}],
    "operand for several": [{"kind": "lr"}, {"kind": "mlp", "widths": [HIDDEN]}, {"kind": "cin", "widths": [2]}],
    "deepfm": [{"kind": "lr"}, {"kind": "fm"}, {"kind": "mlp", "widths": [HIDDEN]}],
}


class TwoLayers(torch.nn.Module):
    """A head as a user might write it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(inputs, 2, bias=False), torch.nn.ReLU())
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, pooled: Tensor) -> Tensor:
        return self.scale * self.layers(pooled.flatten(1)).sum(dim=1)


def make_head(fields: int, width: int) -> torch.nn.Module:
    return TwoLayers(fields * width)


# Operators that need field placement, or that work differently there.
BY_FIELD: dict[str, list[dict[str, object]]] = {
    "fm_fields": [{"kind": "fm_fields"}],
    "mlp": [{"kind": "mlp", "widths": [HIDDEN, 3]}],
    "cross_v2 of low rank": [{"kind": "cross_v2", "layers": 3, "rank": 2}],
    "cross": [{"kind": "cross", "layers": 2}, {"kind": "lr"}],
    "split cin": [{"kind": "cin", "widths": [4, 3, 2], "split": True}],
    "split cin of one layer": [{"kind": "lr"}, {"kind": "cin", "widths": [3], "split": True}],
    "operand": [{"kind": "fm"}, {"kind": "mlp", "widths": [HIDDEN]}, {"kind": "cin", "widths": [2]}],
}


def model_of(operators: list[dict[str, object]], placement: str = "hash", pooling: str = "sum") -> Model:
    raw = {
        "schema_version": 1,
        "name": "x",
        "input": {"fields": FIELDS, "ids_per_sample": 7},
        "embedding": {"width": WIDTH, "placement": placement, "pooling": pooling},
        "operators": operators,
    }
    return parse_model(raw, "x.toml")


def network_of(model: Model) -> Network:
    """A network with random dense parameters, so that biases are not zero."""
    network = Network(model, 1, torch.float64, "cpu")
    for i, p in enumerate(network.dense_parameters):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 + i), dtype=torch.float64)
    return network


def columns(occurrences: Occurrences) -> tuple[Tensor, Tensor, Tensor]:
    sample, field, index = torch.tensor(occurrences, dtype=torch.int64).reshape(-1, 3).T
    return sample, field, index


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def rows_of(network: Network) -> dict[str, Tensor]:
    return {name: random(VOCABULARY, width, seed=i) for i, (name, width) in enumerate(network.row_widths.items())}


def summed(network: Network, rows: dict[str, Tensor], occurrences: Occurrences, workers: int) -> Tensor:
    """The sum of the workers' partials; worker p owns the ids i with i % workers == p."""
    _, _, index = columns(occurrences)
    return in_lockstep([network] * workers, rows, occurrences, index % workers)


def summed_by_field(networks: list[Network], rows: dict[str, Tensor], occurrences: Occurrences) -> Tensor:
    """The same, but worker p owns the fields f with f % workers == p."""
    _, field, _ = columns(occurrences)
    return in_lockstep(networks, rows, occurrences, field % len(networks))


def in_lockstep(networks: list[Network], rows: dict[str, Tensor], occurrences: Occurrences, owner: Tensor) -> Tensor:
    """The sum of partials, with one thread for each worker and collectives that autograd differentiates through."""
    sample, field, index = columns(occurrences)
    workers, slots = len(networks), [torch.empty(0)] * len(networks)
    barrier = threading.Barrier(workers)
    this_thread = threading.local()

    def all_gather(part: Tensor) -> Tensor:
        slots[this_thread.rank] = part
        barrier.wait(timeout=240)
        gathered = torch.stack(slots)
        barrier.wait(timeout=240)
        return gathered

    def partials(p: int) -> Tensor:
        this_thread.rank = p
        network = networks[p]
        mine = owner == p
        unique, inverse = torch.unique(index[mine], return_inverse=True)
        sizes = bag_sizes(sample * FIELDS + field, SAMPLES * FIELDS)[mine] if network.model.pools_mean else None
        owned = OwnedOccurrences.of(sample[mine], field[mine], inverse, SAMPLES, FIELDS, sizes)
        return network.partials({name: values[unique] for name, values in rows.items()}, owned)

    for network in networks:
        network.sum_fields = lambda part: all_gather(part).sum(dim=0)
        network.max_over_workers = lambda part: all_gather(part).amax(dim=0)
    with ThreadPoolExecutor(workers) as pool:
        return torch.stack(list(pool.map(partials, range(workers)))).sum(dim=0)


def from_bags(network: Network, rows: dict[str, Tensor], occurrences: Occurrences) -> Tensor:
    """The same sums from whole pooled field vectors."""
    sample, field, index = columns(occurrences)
    bags = torch.zeros(SAMPLES, FIELDS, network.bag_width, dtype=torch.float64)
    return network.from_bags(bags.index_put((sample, field), network.bag_rows(rows)[index], accumulate=True))


def expected(network: Network, rows: dict[str, Tensor], occurrences: Occurrences) -> Tensor:
    """Logits of the reference, on one process."""
    sample, field, index = columns(occurrences)
    attention = [m.a for m in (network.operand, network.pool) if isinstance(m, AttentionPool | WholeAttention)]
    pooling = network.model.embedding.pooling, *attention
    plain = Plain(rows.get("w"), rows.get("v"), index, sample, field, SAMPLES, FIELDS, *pooling)
    logits = network.bias.expand(SAMPLES)
    for operator in network.operators.values():
        logits = logits + operator.reference(plain, dict(operator.named_parameters()), None)
    return logits


def plain_of(v: Tensor, occurrences: Occurrences) -> Plain:
    sample, field, index = columns(occurrences)
    return Plain(None, v, index, sample, field, SAMPLES, FIELDS)


def assert_same(ours: Tensor, theirs: Tensor, parameters: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight = torch.linspace(-1, 1, ours.numel(), dtype=torch.float64).view_as(ours)
    for a, b in zip(*(_grads((y * weight).sum(), parameters) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def _grads(value: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    if not value.requires_grad:
        return tuple(torch.zeros_like(p) for p in parameters)
    return torch.autograd.grad(value, parameters, materialize_grads=True, retain_graph=True)


POOLED = ("fm with nfm", "cross", "mlp", "deepfm", "operand for several")  # also tested with mean pooling
NOT_SUMS = [(name, pooling) for name in ("mlp", "operand for several", "head") for pooling in ("max", "attention")]


@pytest.mark.parametrize(
    ("name", "pooling"), [*((n, "sum") for n in OPERATORS), *((n, "mean") for n in POOLED), *NOT_SUMS]
)
@given(OCCURRENCES, st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_summed_partials_finish_to_the_reference_logits(
    name: str, pooling: str, occurrences: Occurrences, workers: int
) -> None:
    network = network_of(model_of(OPERATORS[name], pooling=pooling))
    rows = rows_of(network)
    sums = summed(network, rows, occurrences, workers)
    leaves = [*rows.values(), *network.dense_parameters]
    assert_same(network.tail(sums), expected(network, rows, occurrences), leaves)
    if (name, pooling) in NOT_SUMS:
        return  # pooling is not a sum of rows, so there are no bags
    torch.testing.assert_close(from_bags(network, rows, occurrences), sums, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "pooling"), [*((name, "sum") for name in OPERATORS), *NOT_SUMS])
def test_buffer_width_and_dense_weights_match_the_plan(name: str, pooling: str) -> None:
    model = model_of(OPERATORS[name], pooling=pooling)
    network, symbols = network_of(model), model.symbols(2)
    wire, shared = (total(model.costs, part).evaluate(symbols) for part in ("wire", "shared_weights"))
    assert summed(network, rows_of(network), [(0, 0, 1)], 2).shape == (SAMPLES, wire)
    assert sum(p.numel() for p in network.shared_parameters) == shared
    assert sum(p.numel() for p in network.tail_parameters) == symbols["P"]
    assert network.bag_width == symbols["W"] + symbols["E"]


@pytest.mark.parametrize("pooling", ["sum", "mean", "max", "attention"])
@pytest.mark.parametrize("name", BY_FIELD)
@given(OCCURRENCES, st.integers(1, 4))
@settings(deadline=None, max_examples=10)
def test_field_placement_finishes_to_the_reference_logits(
    name: str, pooling: str, occurrences: Occurrences, workers: int
) -> None:
    model = model_of(BY_FIELD[name], "field", pooling)
    whole, networks = network_of(model), [network_of(model) for _ in range(workers)]
    for p, network in enumerate(networks):
        network.keep_fields(range(p, FIELDS, workers))
    rows = rows_of(whole)
    ours = networks[0].tail(summed_by_field(networks, rows, occurrences))
    theirs = expected(whole, rows, occurrences)
    assert_same(ours, theirs, list(rows.values()))
    if not model.pools_apart:
        torch.testing.assert_close(whole.tail(from_bags(whole, rows, occurrences)), theirs, rtol=1e-12, atol=1e-12)
    # Every worker has the whole gradient of its own columns.
    weights = dict(whole.operators.named_parameters())
    for network in networks:
        named = dict(network.operators.named_parameters())
        own = {id(columns.mine): columns.places for columns in network.owned_columns}
        for key, p in named.items():
            if id(p) in own:
                mine, all_columns = _grads(ours.sum(), [p]), _grads(theirs.sum(), [weights[key]])
                torch.testing.assert_close(mine[0], all_columns[0].index_select(-1, own[id(p)]), rtol=1e-12, atol=1e-12)
    # The workers' partial gradients of shared parameters add up to the whole.
    for i, p in enumerate(_still_shared(whole)):
        parts = [_grads(ours.sum(), [network.shared_parameters[i]])[0] for network in networks]
        torch.testing.assert_close(sum(parts), _grads(theirs.sum(), [p])[0], rtol=1e-12, atol=1e-12)


def _still_shared(whole: Network) -> list[Tensor]:
    """The shared parameters that remain shared after `keep_fields`."""
    by_field = {id(operator.get_parameter(name)) for operator in whole.operators.values() for name in operator.by_field}
    return [p for p in whole.shared_parameters if id(p) not in by_field]


@pytest.mark.parametrize("pooling", ["sum", "attention"])
def test_weights_placed_with_their_field_match_the_plan(pooling: str) -> None:
    for operators in BY_FIELD.values():
        model = model_of(operators, "field", pooling)
        network, symbols = network_of(model), model.symbols(1)
        network.keep_fields(range(FIELDS))
        counted = {
            part: total(model.costs, part).evaluate(symbols) for part in ("owned_weights", "shared_weights", "wire")
        }
        assert sum(columns.mine.numel() for columns in network.owned_columns) == counted["owned_weights"]
        assert sum(p.numel() for p in network.shared_parameters) == counted["shared_weights"]
        assert sum(p.numel() for p in network.tail_parameters) == symbols["P"]
        assert summed_by_field([network], rows_of(network), [(0, 0, 1)]).shape == (SAMPLES, counted["wire"])


def test_pooled_field_fm_by_hash_is_refused_and_would_be_wrong() -> None:
    with pytest.raises(ModelError, match=r'"fm_fields" needs placement = "field".*square of a field'):
        model_of(BY_FIELD["fm_fields"])
    model = model_of(BY_FIELD["fm_fields"], "field")
    forced = model.model_copy(update={"embedding": model.embedding.model_copy(update={"placement": "hash"})})
    network, occurrences = network_of(forced), [(0, 0, 1), (0, 0, 2), (0, 1, 3)]
    rows = rows_of(network)
    right = expected(network, rows, occurrences)
    torch.testing.assert_close(network.tail(summed(network, rows, occurrences, 1)), right)
    assert float((network.tail(summed(network, rows, occurrences, 2)) - right).abs().max().detach()) > 1e-3


@given(OCCURRENCES)
@settings(deadline=None, max_examples=20)
def test_fm_reference_is_the_sum_over_pairs(occurrences: Occurrences) -> None:
    v = random(VOCABULARY, WIDTH)
    sample, _, index = columns(occurrences)
    brute = [
        sum((v[i] @ v[j] for i, j in combinations(index[sample == b].tolist(), 2)), torch.zeros((), dtype=v.dtype))
        for b in range(SAMPLES)
    ]
    torch.testing.assert_close(
        Fm(WIDTH).reference(plain_of(v, occurrences), {}, None), torch.stack(brute), rtol=0, atol=1e-12
    )


def test_the_first_layer_computes_occupied_pairs_only() -> None:
    """The plan counts 2 * D * H1 FLOPs for each occupied (sample, field) pair, not for B * F pairs or each id."""
    sample, field, index = columns([(0, 0, 1), (0, 0, 2), (3, 0, 1), (2, 2, 5)])
    owned = OwnedOccurrences.of(sample, field, torch.arange(4), SAMPLES, FIELDS)
    assert owned.pair_sample.tolist() == [0, 2, 3] and owned.pair_field.tolist() == [0, 2, 0]
    network = network_of(model_of(OPERATORS["mlp"]))
    with FlopCounterMode(display=False) as counter:
        network.partials({"v": random(VOCABULARY, WIDTH)[index]}, owned)
    assert counter.get_total_flops() == 3 * 2 * WIDTH * HIDDEN


def test_fm_over_pooled_fields_is_a_different_operator() -> None:
    """The trap named in the docstring of fm.py: pooling first changes q."""
    v = random(VOCABULARY, WIDTH)
    pooled = torch.stack([v[1] + v[2], v[3]])  # ids 1 and 2 are of one field
    field_level = (pooled.sum(0).square().sum() - pooled.square().sum()) / 2
    over_ids = Fm(WIDTH).reference(plain_of(v, [(0, 0, 1), (0, 0, 2), (0, 1, 3)]), {}, None)[0]
    assert float((over_ids - field_level).detach()) == pytest.approx(float((v[1] @ v[2]).detach()))
