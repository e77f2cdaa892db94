"""Admission and expiry in training: every strategy on two ranks has and trains the same rows as one process."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref.comm import Comm, open_comm
from des_ref.config import load_settings
from des_ref.data.batch import Batch, slice_of
from des_ref.data.synthetic import Zipf
from des_ref.embedding.lifetime import Lifetime
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES, build
from des_ref.strategies.base import Optimizers
from dessim.errors import FileError
from dessim.workload.model import load_model
from tests.des_ref.ranks import on_ranks

EXACT = [name for name in STRATEGIES if name != "ps_async"] + ["ps_sync+hot_rows=9+look_ahead"]
LIFETIME = Lifetime(admit_after=2, expire_after=3)
STEPS, BATCH = 14, 24
BY_FIELD = "des_all_reduce, whole fields on a worker"


def batches(fields: int) -> list[Batch]:
    """Few ids a step from a vocabulary that shifts over time, so that ids appear, vanish and return."""
    examples = Zipf(fields, 1.5, 60, 1.05, 3).open(STEPS * BATCH).train
    found = []
    for step in range(STEPS):
        batch = examples.take(torch.arange(BATCH) + (step * BATCH) % (len(examples) - BATCH))
        keep = batch.ids % 4 != step // 3 % 4
        own = Batch(batch.ids[keep], batch.sample[keep], batch.field[keep], batch.labels)
        found.append(dataclasses.replace(own, ids=own.ids + step // 8))
    return found


def trained(comm: Comm, strategy: str, model_file: Path, lifetime: Lifetime = LIFETIME) -> dict[str, Any]:
    """This rank's exported table by id at the end, the loss of each step, and the scores of the first batch."""
    model = load_model(model_file)
    network = Network(model, 1, torch.float64, comm.device)
    trainer = build(strategy, network, Optimizers(init_std=0.1, lifetime=lifetime), comm)
    losses, wholes = [], batches(model.input.fields)
    trainer.count(lambda: wholes[:2])
    for whole in wholes:
        result = trainer.step(trainer.share(whole))
        loss = result.loss.clone()
        if trainer.loss_is_share:
            comm.all_reduce("loss", loss).wait()
        losses.append(float(loss))
    scores = trainer.predict(slice_of(wholes[0], comm.rank, comm.world_size)).tolist()
    groups = {}
    for group, lines in trainer.table.export().items():
        # The column with the field of a row concerns placement, not training.
        values = [
            v.double().view(len(v), *v.shape[1:] or (1,)) for name, v in lines.items() if name not in ("keys", "field")
        ]
        rows = torch.cat(values, dim=1).tolist() if len(lines["keys"]) else []
        groups[group] = {str(key): row for key, row in zip(lines["keys"].tolist(), rows, strict=True)}
    return groups | {"losses": losses, "scores": scores}


def _all(model_file: Path, by_field: Path, comm: Comm) -> dict[str, Any]:
    found = {name: trained(comm, name, model_file) for name in EXACT}
    return found | {BY_FIELD: trained(comm, "des_all_reduce", by_field)}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    from tests.des_ref.conftest import TINY

    folder = tmp_path_factory.mktemp("lifetimes")
    model_file, by_field = folder / "tiny.toml", folder / "by_field.toml"
    model_file.write_text(TINY)
    by_field.write_text(TINY.replace("width = 4\n", 'width = 4\nplacement = "field"\n'))
    return model_file, on_ranks(2, tmp_path_factory.mktemp("ranks"), partial(_all, model_file, by_field))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [*EXACT, BY_FIELD])
def test_two_ranks_admit_expire_and_train_like_one_process(
    strategy: str, on_two: tuple[Path, list[dict[str, Any]]]
) -> None:
    model_file, ranks = on_two
    with open_comm("cpu") as comm:
        plain = trained(comm, "des_all_reduce", model_file)
    ours = [rank[strategy] for rank in ranks]
    assert ours[0]["losses"] == pytest.approx(plain["losses"], abs=1e-12)
    assert ours[0]["scores"] == pytest.approx(plain["scores"], abs=1e-12)
    for group in ("rows", "candidates"):
        if strategy == "data_parallel":
            assert ours[0][group] == ours[1][group]
        else:
            on_both = sorted(ours[0][group].keys() & ours[1][group].keys())
            assert len(on_both) <= (9 if "hot_rows" in strategy else 0)
            assert all(ours[0][group][key] == ours[1][group][key] for key in on_both)
        both = ours[0][group] | ours[1][group]
        assert both.keys() == plain[group].keys() and len(both) > 3
        for key, row in plain[group].items():
            assert both[key] == pytest.approx(row, abs=1e-12)


def test_an_id_that_is_not_admitted_is_never_trained(tiny: Path) -> None:
    """If no id is ever admitted, ids keep their initial values and only dense parameters learn."""
    with open_comm("cpu") as comm:
        waiting = trained(comm, "des_all_reduce", tiny, Lifetime(admit_after=STEPS + 1))
        at_once = trained(comm, "des_all_reduce", tiny, Lifetime())
    assert not waiting["rows"] and len(waiting["candidates"]) == len(at_once["rows"])
    assert waiting["losses"][0] == at_once["losses"][0] and waiting["losses"][1:] != at_once["losses"][1:]


def test_settings_set_the_lifetime_of_rows(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "fm"\n[rows]\nadmit_after = 3\nexpire_after = 500\n')
    assert load_settings(file, {}).optimizers.lifetime == Lifetime(3, 500)
    assert load_settings(None, {}).optimizers.lifetime == Lifetime()
    with pytest.raises(FileError, match=r"rows: admit_after and expire_after .* use ps_sync"):
        load_settings(file, {"strategy": "ps_async"})
    for wrong in ("admit_after = 0", "expire_after = 0", "expire_after = 1.5", "admit_after = 3_000_000_000"):
        file.write_text(f'model = "fm"\n[rows]\n{wrong}\n')
        with pytest.raises(FileError, match=rf"rows\.{wrong.split()[0]}: Input should be"):
            load_settings(file, {})
