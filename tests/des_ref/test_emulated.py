"""Training on an emulated GPU: no mixed devices, no sums in a random order, few waits of the host, same values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from des_ref.certify import stale
from des_ref.certify.case import SEED, Case
from des_ref.certify.case import batches as case_batches
from des_ref.comm import Comm, Encoding, open_comm
from des_ref.data.batch import Batch
from des_ref.data.synthetic import Zipf
from des_ref.device.emulated import EMULATED, Counts, MixedDevices, OnDevice, emulated
from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.strategies import STRATEGIES, VARIANTS, build
from des_ref.strategies.base import Optimizers, Strategy
from dessim.workload.codecs import parse_codecs
from dessim.workload.model import Model, parse_model
from tests.des_ref.ranks import on_ranks

SAMPLES, STEPS = 8, 2
MOST_WAITS = 5  # of a DES step


@pytest.fixture(scope="module")
def host() -> Iterator[Comm]:
    with open_comm("cpu") as comm:
        yield comm


def small(name: str, placement: str | None = None) -> Model:
    """A shipped model, shrunk."""
    return Case(1, 1, name, "des_all_reduce", placement=placement, small=True).load()


def batches(model: Model) -> list[Batch]:
    data = Zipf.of(model, 3)
    return [data.examples(SAMPLES, part=step).take(torch.arange(SAMPLES)) for step in range(STEPS)]


def trained(
    model: Model, strategy: str, comm: Comm, optimizers: Optimizers, codecs: str, samples: list[Batch]
) -> tuple[Strategy, list[Tensor]]:
    """The strategy after STEPS steps, and their losses."""
    network = Network(model.trained_by(optimizers.rows.name), 1, torch.float64, comm.device)
    encoding = Encoding(parse_codecs(codecs)) if codecs else None
    trainer = build(strategy, network, optimizers, comm, encoding=encoding)
    trainer.count(lambda: samples[:1])
    losses = [trainer.step(trainer.share(batch).to(comm.device)).loss for batch in samples]
    trainer.settle()
    losses.append(trainer.predict(samples[0].to(comm.device)).sum())
    return trainer, losses


def check(
    host: Comm, model: Model, strategy: str, optimizers: Optimizers | None = None, codecs: str = "", atol: float = 1e-12
) -> Counts:
    """Train on the CPU and on the emulated GPU, and compare losses, rows and dense parameters."""
    optimizers = optimizers or Optimizers(init_std=0.1)
    samples = batches(model)
    ours, our_losses = trained(model, strategy, host, optimizers, codecs, samples)
    with emulated() as counts:
        theirs, their_losses = trained(model, strategy, replace(host, device=EMULATED), optimizers, codecs, samples)
        assert all(isinstance(loss, OnDevice) for loss in their_losses)
        keys = ours.table.keys
        for name in ours.network.row_widths:
            expected = ours.table.columns[name][ours.table.find(keys)]
            table = theirs.table
            place = table.find(keys.to(table.keys.device))
            torch.testing.assert_close(table.columns[name][place].cpu(), expected, rtol=0, atol=atol)
        for a, b in zip(ours.network.dense_parameters, theirs.network.dense_parameters, strict=True):
            torch.testing.assert_close(b.detach().cpu(), a.detach(), rtol=0, atol=atol)
        for a, b in zip(our_losses, their_losses, strict=True):
            torch.testing.assert_close(b.cpu(), a, rtol=0, atol=atol * SAMPLES)
    assert not counts.atomics
    return counts


@pytest.mark.parametrize("strategy", [*(s for s in STRATEGIES if s != "ps_async"), *VARIANTS])
def test_strategies_train_on_the_device(strategy: str, host: Comm) -> None:
    check(host, small("deepfm_ml100k"), strategy)


MODELS = (
    ("nfm", "hash"), ("dcn", "hash"), ("dcn", "field"), ("dcn_v2", "hash"), ("dcn_v2_low_rank", "field"),
    ("xdeepfm", "hash"), ("xdeepfm_split", "field"), ("deepfm_fields", "field"), ("dlrm", "hash"),
    ("criteo_kaggle", "hash"), ("deepfm_multihot", "hash"), ("deepfm_multihot", "field"), ("fvae", "hash"),
    ("two_tower", "hash"),
)  # fmt: skip


@pytest.mark.parametrize(("model", "placement"), MODELS)
def test_models_train_on_the_device(model: str, placement: str, host: Comm) -> None:
    check(host, small(model, placement), "des_all_reduce")


@pytest.mark.parametrize(
    ("pooling", "placement"), list(itertools.product(("mean", "max", "attention"), ("hash", "field")))
)
def test_poolings_train_on_the_device(pooling: str, placement: str, host: Comm) -> None:
    raw = small("pnn").model_dump()
    raw["embedding"] |= {"pooling": pooling, "placement": placement}
    raw["input"]["ids_per_sample"] = 2.0 * raw["input"]["fields"]
    check(host, parse_model(raw, pooling), "des_all_reduce")


def _certified_with_servers(world: Comm) -> list[Any]:
    """Worker 0's differences in a certificate of two workers on the device and a server in host memory."""
    case = Case(2, STEPS, "deepfm_ml100k", "ps_async", small=True)
    comm = world.with_servers(1, 60.0)
    model = case.load()
    samples = case_batches(case, model, comm)
    is_worker = comm.rank < comm.world_size
    with emulated() if is_worker else nullcontext() as counts:
        own = replace(comm, device=EMULATED) if is_worker else comm
        found = stale.measure(own, model, case.optimizers(), seed=SEED, batches=samples, staleness=case.staleness)
    assert counts is None or any(line.startswith("strategies/ps_async") for line in counts.waits)
    return [] if found is None else [found[name] for name in ("max_loss_diff", "max_grad_diff", "max_param_diff")]


def test_workers_of_servers_are_certified_on_the_device(tmp_path: Path) -> None:
    differences, *others = on_ranks(3, tmp_path, _certified_with_servers)
    assert len(differences) == 3 and max(differences) < 1e-12 and others == [[], []]


@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
def test_row_optimizers_train_on_the_device(name: str, host: Comm) -> None:
    lifetime = Lifetime(admit_after=2, expire_after=1) if name == "adam" else Lifetime()
    check(host, small("fm"), "row_wise", Optimizers(ROW_OPTIMIZERS[name](), init_std=0.1, lifetime=lifetime))


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad", "RMSprop"])
def test_dense_optimizers_train_on_the_device(name: str, host: Comm) -> None:
    check(host, small("deepfm"), "des_reduce_scatter", Optimizers(dense=DenseOptimizer(name, {"lr": 1e-3})))


@pytest.mark.parametrize("codec", ["bf16", "fp16", "fp6", "dense=threshold:0.5", "activations=top_k:0.5"])
def test_codecs_encode_on_the_device(codec: str, host: Comm) -> None:
    # A value that is nearly half-way between two codes may round either way.
    check(host, small("deepfm"), "des_all_reduce", codecs=codec, atol=1e-4)


@pytest.mark.parametrize("strategy", ["des_all_reduce", "des_reduce_scatter"])
@pytest.mark.parametrize(
    ("name", "placement"),
    [("deepfm_multihot", "hash"), ("deepfm_multihot", "field"), ("deepfm_ml100k", "hash"), ("fvae", "hash")],
)
def test_the_host_waits_five_times_in_a_des_step(strategy: str, name: str, placement: str, host: Comm) -> None:
    """deepfm_ml100k draws dropout masks. fvae draws noise, and its softmax waits for numbers of candidates."""
    most = MOST_WAITS + (name == "fvae")
    model = small(name, placement)
    comm = replace(host, device=EMULATED)
    with emulated() as counts:
        network = Network(model, 1, torch.float32, EMULATED)
        trainer = build(strategy, network, Optimizers(), comm)
        on_device = [batch.to(EMULATED) for batch in batches(model)]
        new_ids = []
        for batch in (*on_device, *on_device):
            before = len(trainer.table)
            counts.clear()
            float(trainer.step(batch).loss)
            new_ids.append(len(trainer.table) - before)
            assert counts.waits.total() <= most - (not new_ids[-1]), dict(counts.waits)
    assert new_ids[0] and not new_ids[-1]  # both kinds of steps


# -- the emulation itself ---------------------------------------------------------------------------------------------


def test_every_wait_is_counted_where_it_is_asked_for() -> None:
    with emulated() as counts:
        x = torch.arange(5, device=EMULATED)
        y = x.to(torch.float32) * 2
        z = torch.zeros(5, device=EMULATED).index_add_(0, x, y)
        assert not counts.waits and not counts.atomics and x.device == EMULATED
        for times, ask in (
            (1, lambda: float(y[1])),
            (1, lambda: y.tolist()),
            (1, lambda: bool((y > 1).any())),
            (1, lambda: (y > 1).nonzero()),
            (1, lambda: y[y > 1]),
            (1, lambda: torch.unique(x)),
            (2, lambda: torch.bincount(x)),
            (1, lambda: x.repeat_interleave(x)),
            (1, lambda: torch.tensor([1, 2], device=EMULATED)),
            (1, lambda: torch.ones(2).to(EMULATED)),
            (1, lambda: y.cpu()),
            (0, lambda: torch.ones(2).to(EMULATED, non_blocking=True)),
            (0, lambda: z.masked_fill_(y > 1, 0.0)),
            (0, lambda: x.repeat_interleave(x, output_size=10)),
        ):
            counts.clear()
            ask()
            assert counts.waits.total() == times, ask
        assert y.tolist() == [0, 2, 4, 6, 8]


def test_sums_in_a_random_order_are_counted() -> None:
    with emulated() as counts:
        twice = torch.zeros(3, dtype=torch.int64, device=EMULATED)
        values = torch.ones(3, device=EMULATED, requires_grad=True)
        torch.zeros(3, dtype=torch.int64, device=EMULATED).index_add_(0, twice, twice)
        assert not counts.atomics
        values.index_select(0, twice).sum().backward()
        torch.zeros(3, device=EMULATED).scatter_add_(0, twice, values.detach())
        values.detach().cumsum(0)
        assert counts.atomics.total() == 3


def test_mixed_devices_are_refused() -> None:
    with emulated():
        x = torch.ones(3, device=EMULATED)
        assert (x * torch.tensor(2.0)).tolist() == [2, 2, 2]  # a single number may be in host memory
        for mix in (lambda: x + torch.ones(3), lambda: x.index_select(0, torch.arange(2))):
            with pytest.raises(MixedDevices):
                mix()
