"""TorchRec runs dessim's plans with the bytes that they state; plans of TorchRec's planner are priced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from des_ref.cli import run
from des_ref.comm import Comm
from des_ref.torchrec_plan import bags_of, load_plan, main, save_plan
from dessim.errors import FileError, UsageError
from dessim.plan.scales import PlanRequest, run_plan
from dessim.workload.composed import TablePlan, compose
from dessim.workload.model import Model
from dessim.workload.owners import by_rank, owners_of, sizes_of
from dessim.workload.plan_file import JobPlan
from dessim.workload.scale import Job
from dessim.workload.torchrec_plan import EXPRESSIBLE, read_torchrec, table_names, write_torchrec
from tests.des_ref import torchrec_peer
from tests.des_ref.ranks import on_ranks
from tests.plan.small import BATCH, TABLES, cluster, model_of, model_text

SAMPLES, RANKS, WIDTH = 16, (2, 4), 32
SMALL = ((4000, 3), (900, 2), (50, 1))


@pytest.fixture(scope="module", autouse=True)
def _with_torchrec() -> None:
    """Import TorchRec, which takes seconds, in the process that runs these tests only, not in all that collect them."""
    if reason := torchrec_peer.why_not():
        pytest.skip(reason)


@lru_cache
def job() -> Model:
    return model_of(SMALL, WIDTH)


@lru_cache
def planned(ranks: int) -> dict[str, tuple[TablePlan, ...]]:
    """The planner's fastest plan of whole tables, and its fastest with columns split."""
    strategies = ("table_wise", "column_wise")
    request = PlanRequest(Job.of_model(job()), cluster(), [ranks], SAMPLES, strategies=strategies, by_table=True)
    (scale,) = run_plan(request).scales
    plans = [c.tables for c in scale.plans.candidates if c.tables]
    split = next(tables for tables in plans if any(len(table.ranks) > 1 for table in tables))
    whole = next(tables for tables in plans if all(len(table.ranks) == 1 for table in tables))
    return {"table_wise": whole, "column_wise": split}


@contextmanager
def _recorded() -> Iterator[list[tuple[str, int, int]]]:
    """The type of each AllToAll's values, and its bytes that this rank sends and receives."""
    calls, original = [], dist.all_to_all_single

    def recording(output: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append((str(input.dtype), input.nbytes, output.nbytes))
        return original(output, input, *args, **kwargs)

    dist.all_to_all_single = recording
    try:
        yield calls
    finally:
        dist.all_to_all_single = original


def _sharded(path: Path, weights: list[Tensor]) -> nn.Module:
    """The tables of the plan at `path`, filled with `weights` [rows, width]."""
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

    bags = bags_of(job())
    tables: nn.Module = DistributedModelParallel(
        bags, device=torch.device("cpu"), plan=load_plan(path, bags, "cpu"), sharders=[EmbeddingBagCollectionSharder()]
    )
    for name, held in tables.state_dict().items():
        for shard in held.local_shards():
            row, column = shard.metadata.shard_offsets
            rows, columns = shard.metadata.shard_sizes
            of_table = weights[table_names(job()).index(name.split(".")[-2])]
            shard.tensor.detach().copy_(of_table[row : row + rows, column : column + columns])
    return tables


def _ran(comm: Comm, path: Path) -> dict[str, Any]:
    """A step under a plan: what TorchRec sent and received, and how far its vectors are from those of whole tables."""
    from torchrec import KeyedJaggedTensor

    names, share = table_names(job()), SAMPLES // comm.world_size
    generator = torch.Generator().manual_seed(comm.rank)
    weights = [torch.arange(rows * WIDTH).view(rows, WIDTH) / 1024 for rows, _ in SMALL]
    ids = [torch.randint(rows, (share, count), generator=generator) for rows, count in SMALL]
    lengths = torch.tensor([count for _, count in SMALL], dtype=torch.int32).repeat_interleave(share)
    features = KeyedJaggedTensor.from_lengths_sync(list(names), torch.cat([i.flatten() for i in ids]), lengths)
    tables = _sharded(path, weights)
    with _recorded() as forward:
        found = tables(features).to_dict()
    expected = [w[i].sum(dim=1) for w, i in zip(weights, ids, strict=True)]
    apart = max(
        float((found[n].detach() - e).abs().max() / e.abs().max()) for n, e in zip(names, expected, strict=True)
    )
    with _recorded() as backward:
        sum(vectors.sum() for vectors in found.values()).backward()
    return {"forward": forward, "backward": backward, "apart": apart}


def _steps(folder: Path, comm: Comm) -> dict[str, Any]:
    """A step under each plan of `folder`, by its name."""
    return {path.stem: _ran(comm, path) for path in sorted(folder.glob("*.json"))}


@pytest.fixture(scope="module", params=RANKS)
def steps(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """By rank, a step under each kind of plan."""
    ranks, plans = request.param, tmp_path_factory.mktemp("plans")
    for kind, tables in planned(ranks).items():
        plan = JobPlan(ranks, SAMPLES, tables)
        write_torchrec(plans / f"{kind}.json", plan, job(), np.zeros(ranks, dtype=np.int64))
    return on_ranks(ranks, tmp_path_factory.mktemp("ranks"), partial(_steps, plans), limit_s=200, imported="torchrec")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table_wise", "column_wise"])
def test_torchrec_runs_our_plan_with_the_planned_bytes(kind: str, steps: list[dict[str, Any]]) -> None:
    """Its AllToAlls of vectors, their gradients, ids and numbers of ids have the sizes of ours, rank by rank."""
    ranks = len(steps)
    plan = compose(job(), planned(ranks)[kind])
    symbols = plan.symbols(Job.of_model(job()).symbols(ranks, SAMPLES // ranks))
    owners = owners_of(plan, job(), symbols)
    stated = {
        op.name.partition(".")[0]: by_rank(owners, sizes_of(op, symbols, owners)).round().tolist()
        for op in plan.collectives
    }
    found = [rank[kind] for rank in steps]
    assert max(step["apart"] for step in found) < 1e-6  # float32 sums of a bag in another order

    def total(step: dict[str, Any], phase: str, dtype: str, sent: bool) -> float:
        return sum(call[1 if sent else 2] for call in step[phase] if call[0] == f"torch.{dtype}")

    assert [total(step, "forward", "float32", sent=True) for step in found] == stated["pooled"]
    assert [total(step, "backward", "float32", sent=False) for step in found] == stated["pooled_grad"]
    assert [total(step, "forward", "int32", sent=False) for step in found] == stated["lengths"]
    for step in found:  # TorchRec first exchanges how many ids will follow
        first = next(number for number, call in enumerate(step["forward"]) if call[0] == "torch.int32")
        step["forward"] = step["forward"][first:]
    assert [total(step, "forward", "int64", sent=False) for step in found] == stated["ids"]
    assert min(stated["pooled_grad"]) >= 0 and max(stated["pooled"]) > 0


def test_a_file_becomes_the_plan_that_torchrec_constructs(tmp_path: Path) -> None:
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.sharding_plan import (
        column_wise,
        construct_module_sharding_plan,
        data_parallel,
        row_wise,
        table_row_wise,
        table_wise,
    )

    model = model_of()
    split, whole = TablePlan("table_wise", (1, 5), (32, 32)), TablePlan("table_wise", (6,), (64,))
    tables = (
        TablePlan("row_wise"),
        split,
        TablePlan("table_row_wise", (4, 5, 6, 7)),
        whole,
        TablePlan("data_parallel"),
    )
    write_torchrec(tmp_path / "plan.json", JobPlan(8, 1024, tables), model, np.arange(8) // 4)
    module = nn.ModuleDict({"bags": bags_of(model)})
    (where, found), *others = load_plan(tmp_path / "plan.json", module).plan.items()
    by_name = {
        "t0": row_wise(compute_kernel="fused"),
        "t1": column_wise([1, 5], compute_kernel="fused"),
        "t2": table_row_wise(host_index=1),
        "t3": table_wise(6, compute_kernel="fused"),
        "t4": data_parallel(),
    }
    theirs = construct_module_sharding_plan(bags_of(model), by_name, EmbeddingBagCollectionSharder(), 4, 8, "cuda")
    theirs["t2"].compute_kernel = "fused"  # which table_row_wise has no argument for
    assert not others and where == "bags" and dict(found) == dict(theirs)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of TorchRec's planner for 8 GPUs, as the program writes it."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "small.toml").write_text(model_text(TABLES[:3]))
    options = ["--model", str(folder / "small.toml"), "--gpus", "8", "--batch", str(BATCH // 8)]
    main([*options, "-o", str(folder / "theirs.json")])
    return folder / "theirs.json"


def test_a_plan_is_saved_as_it_was_loaded(theirs: Path, tmp_path: Path) -> None:
    save_plan(tmp_path / "again.json", load_plan(theirs, bags_of(model_of(TABLES[:3]))), 8)
    assert (tmp_path / "again.json").read_text() == theirs.read_text()


def test_settings_that_a_file_does_not_hold_are_refused(theirs: Path, tmp_path: Path) -> None:
    plan = load_plan(theirs, bags_of(model_of(TABLES[:3])))
    next(iter(plan.plan.values()))["t1"].stochastic_rounding = True
    with pytest.raises(UsageError, match="table t1 has stochastic_rounding, which the file of a plan does not hold"):
        save_plan(tmp_path / "again.json", plan, 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_plan_of_torchrecs_planner_never_beats_ours(theirs: Path) -> None:
    """Neither all of ours, nor those of strategies that TorchRec has."""
    given = {theirs.name: read_torchrec(theirs, model_of(TABLES[:3]))}
    (scale,) = run_plan(PlanRequest(Job.of_model(model_of(TABLES[:3])), cluster(), [8], BATCH, given=given)).scales
    steps = [(c.row.breakdown.step_time_s, c) for c in scale.plans.candidates]
    (their_step,) = [step for step, c in steps if c.source]
    ours = [s for s, c in steps if c.estimate_s and {t.family for t in c.tables} <= set(EXPRESSIBLE)]
    assert not scale.plans.best.source and min(ours) <= their_step and not scale.plans.refused


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace('"t4"', '"t9"'), "plan: table t4 of the module is left out"),
        (lambda text: text.replace("[9000000, 64]", "[9000001, 64]"), "t1: is sharded as 9,000,001 x 64, the module"),
        (lambda text: text.replace('"t4": {', '"t4": {"cache_params": {}, '), "t4.cache_params: unknown key"),
    ],
)
def test_a_plan_for_another_module_is_refused_in_one_line(tmp_path: Path, change, expected: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "plan.json"
    write_torchrec(path, JobPlan(8, 1024, strategy="table_wise"), model_of(), np.zeros(8, dtype=np.int64))
    path.write_text(change(path.read_text()))
    with pytest.raises(FileError, match=expected) as refused:
        load_plan(path, bags_of(model_of()))
    assert "\n" not in str(refused.value)


def test_tables_that_the_module_does_not_have_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_torchrec(path, JobPlan(8, 1024, strategy="table_wise"), model_of(), np.zeros(8, dtype=np.int64))
    with pytest.raises(FileError, match="t4: is no table of the module"):
        load_plan(path, bags_of(model_of(TABLES[:4])))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--gpus", "0"], "--gpus: '0': write a whole number of at least 1"),
        (["--gpus", "2", "--memory", "3"], "--memory"),
        (["--gpus", "2", "--memory", "1MB"], "TorchRec's planner: "),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(
    tmp_path: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "theirs.json"
    code = run(
        "des_ref.torchrec_plan", lambda: main(["--model", "dlrm_dcnv2", *options, "--batch", "64", "-o", str(out)])
    )
    error = capsys.readouterr().err
    assert code in (1, 2) and expected in error and error.count("\n") == 1 and not out.exists()
