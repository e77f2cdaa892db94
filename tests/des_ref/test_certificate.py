"""The certificate passes for the real trainer, and fails for each mistake that is built into it on purpose."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref.certify.audit import UNPLANNED
from des_ref.certify.case import Case
from des_ref.certify.compare import distance, row_grads
from des_ref.certify.group import certify, certify_all
from des_ref.certify.show import passed
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, StepResult
from dessim.errors import ModelError
from dessim.workload.model import load_model

DES = ("des_all_reduce", "des_reduce_scatter")


def all_reduce_again() -> None:
    """All-reduce the gradient of SumFeedingReplicas once more, so that sparse gradients are N times too large."""
    from des_ref import comm

    def forward(ctx: Any, partials: Any, by: Any, name: str, meanwhile: Any) -> Any:
        ctx.by = by
        total = partials.clone()
        by.all_reduce(name, total).wait()
        return total

    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].clone()
        ctx.by.all_reduce("again", total).wait()
        return total, None, None, None

    comm.SumFeedingReplicas.forward = staticmethod(forward)  # type: ignore[method-assign]
    comm.SumFeedingReplicas.backward = staticmethod(backward)  # type: ignore[method-assign]


def wrong_owner() -> None:
    """Send ids to a rank that does not own their rows, so that it reads NaN."""
    from des_ref.strategies import des

    right = des.send_occurrences

    def send(batch: Any, owner_of: Any, lane: Any, *rest: Any) -> Any:
        n = lane.comm.world_size
        return right(batch, lambda ids, field: (owner_of(ids, field) + 1) % n, lane, *rest)

    des.send_occurrences = send  # type: ignore[assignment]


def labels_sent_twice() -> None:
    """Send the labels twice in one message: training is the same, with more bytes than planned."""
    import torch

    from des_ref.strategies import des

    def labels(self: Any, batch: Any, samples: int, comm: Any) -> Any:
        doubled = torch.cat([batch.labels, batch.labels])
        out = doubled.new_empty(2 * samples)
        comm.all_gather("labels", out, doubled).wait()
        return out.view(self.comm.world_size, 2, -1)[:, 0].reshape(-1), None

    des.DesAllReduce._labels = labels  # type: ignore[method-assign]


def replica_differs() -> None:
    """Change rank 1's output bias after the last step. Only the comparison of replicas detects it."""
    import torch

    from des_ref.strategies import des

    right = des._Des.step

    def step(self: Any, batch: Any, sent: Any = None) -> Any:
        result = right(self, batch, sent)
        if self.comm.rank == 1 and self._step == 2:
            with torch.no_grad():
                self.network.dense_parameters[-1].add_(0.5)
        return result

    des._Des.step = step  # type: ignore[method-assign]


def scatter_by_all_reduce() -> None:
    """Replace the ReduceScatter by an AllReduce of the same S: training is the same, with twice the bytes sent."""
    from des_ref.comm import Comm, Handle

    def reduce_scatter(self: Any, name: str, out: Any, tensor: Any) -> Handle:
        total = tensor.clone()
        handle = self.all_reduce(name, total)
        handle._work.wait()
        out.copy_(total[self.rank * len(out) :][: len(out)])
        return handle

    Comm.reduce_scatter = reduce_scatter  # type: ignore[method-assign]


def partials_twice() -> None:
    """Send the buffer twice, under the one name in the plan."""
    from des_ref.comm import Comm

    right = Comm.all_reduce

    def all_reduce(self: Any, name: str, tensor: Any) -> Any:
        if name == "partials":
            right(self, name, tensor.clone()).wait()
        return right(self, name, tensor)

    Comm.all_reduce = all_reduce  # type: ignore[method-assign]


def labels_never_sent() -> None:
    """Make up the labels that a rank lacks, so that a planned collective never runs."""
    from des_ref.strategies import des

    def labels(self: Any, batch: Any, samples: int, comm: Any) -> Any:
        return batch.labels.repeat(comm.world_size), None

    des.DesAllReduce._labels = labels  # type: ignore[method-assign]


def every_replica_adds_its_tail() -> None:
    """Each replica adds its tail's whole gradient of the shared weights, so that the sum is N times too large."""
    from des_ref.strategies import des

    des.DesAllReduce._share_of_shared_grads = lambda self: None  # type: ignore[method-assign]


def shared_weights_keep_their_own_gradient() -> None:
    """All-reduce dW1 and discard the sum, so that each worker trains W1 on its own rows only."""
    from des_ref.strategies import grads

    right = grads.SummedGrads.launch

    def launch(comm: Any, name: str, parameters: Any) -> Any:
        if name != "shared_grad":
            return right(comm, name, parameters)
        copies = torch.cat([p.grad.flatten() for p in parameters])
        return grads.SummedGrads((), None, comm.all_reduce(name, copies))

    grads.SummedGrads.launch = staticmethod(launch)  # type: ignore[assignment,method-assign]


def hash_placement_is_forced() -> None:
    """Allow pooled-field FM to have a field's ids on several workers."""
    from dessim.workload.operators import FmFields

    FmFields.not_by_hash = ""


def rounds_keep_their_gradient() -> None:
    """Make the backward of a round the identity, as for the last sum, so that each worker has only a part of dt."""
    from des_ref.strategies import mid_reductions

    mid_reductions._SumFeedingShards.backward = staticmethod(lambda ctx, *grads: (grads[0], None, None))  # type: ignore


def softmaxes_of_each_worker() -> None:
    """Run the (max, sum) rounds, but let backward divide by this worker's own sum, as if it had all candidates."""
    from des_ref.substitution import softmax

    sums, gradients = softmax.Scores.sums, softmax.Scores.gradients

    def keep(self: Any, largest: Any) -> Any:
        self.own = sums(self, largest)
        return self.own.clone()

    softmax.Scores.sums = keep  # type: ignore[method-assign]
    softmax.Scores.gradients = lambda self, _, *rest: gradients(self, self.own, *rest)  # type: ignore[method-assign]


def codes_keep_their_own_gradient() -> None:
    """All-reduce dz and discard the sum, so that a code learns from this worker's candidates only."""
    from des_ref.strategies import scoring

    def summed(self: Any, grad: Any) -> Any:
        self._comm.all_reduce("codes_grad", grad.clone()).wait()
        return grad

    scoring.Scoring._summed = summed  # type: ignore[method-assign]


def case(tiny: Path, ranks: int, strategy: str = "des_all_reduce", steps: int = 2, sabotage: Any = None) -> Case:
    return Case(ranks, steps, str(tiny), strategy, "cpu", sabotage=sabotage)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "strategy"),
    [(1, "des_all_reduce"), (2, "des_all_reduce"), (4, "des_all_reduce"), (3, "des_reduce_scatter")],
)
def test_passes(ranks: int, strategy: str, tiny: Path) -> None:
    result = certify(case(tiny, ranks, strategy))
    assert passed(result), result
    assert result["ranks"] == ranks and all(op["recorded_bytes"] > 0 for op in result["ops"])


@pytest.mark.slow
def test_passes_without_an_mlp(tmp_path: Path) -> None:
    cases = []
    for kinds in (("lr",), ("lr", "fm")):
        file = tmp_path / f"{len(kinds)}.toml"
        operators = "".join(f'[[operators]]\nkind = "{kind}"\n' for kind in kinds)
        head = 'schema_version = 1\nname = "wide"\n[input]\nfields = 3\nids_per_sample = 5.0\nvocabulary = 90\n'
        file.write_text(f"{head}[embedding]\nwidth = 5\n{operators}")
        cases.append(case(file, 2))
    results = certify_all(cases)
    assert all(map(passed, results)), results


@pytest.fixture
def crossed(tmp_path: Path) -> Path:
    """DCN, whose tail and partials read the same weights, beside an operator that needs the operand."""
    file = tmp_path / "crossed.toml"
    head = 'schema_version = 1\nname = "crossed"\n[input]\nfields = 3\nids_per_sample = 5.0\nvocabulary = 90\n'
    cross, cin = '[[operators]]\nkind = "cross"\nlayers = 2\n', '[[operators]]\nkind = "cin"\nwidths = [3, 2]\n'
    file.write_text(f"{head}[embedding]\nwidth = 4\n{cross}{cin}")
    return file


@pytest.mark.slow
def test_passes_when_tail_and_partials_share_weights(crossed: Path) -> None:
    results = certify_all([case(crossed, 2, strategy) for strategy in DES])
    assert all(map(passed, results)), results


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    """Three fields, placed whole; with four ranks one rank has none."""
    file = tmp_path / "fields.toml"
    head = 'schema_version = 1\nname = "fields"\n[input]\nfields = 3\nids_per_sample = 5.0\nvocabulary = 90\n'
    cross = '[[operators]]\nkind = "cross_v2"\nlayers = 2\nrank = 2\n'
    others = '[[operators]]\nkind = "fm_fields"\n[[operators]]\nkind = "mlp"\nwidths = [4, 3]\n'
    file.write_text(f'{head}[embedding]\nwidth = 4\nplacement = "field"\n{cross}{others}')
    return file


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "strategy"), [(2, "des_reduce_scatter"), (4, "des_all_reduce")])
def test_passes_with_field_placement(ranks: int, strategy: str, fields: Path) -> None:
    result = certify(case(fields, ranks, strategy))
    assert passed(result) and {"round_1", "round_2", "round_1_grad"} <= {op["name"] for op in result["ops"]}


@pytest.mark.slow
def test_fails_when_a_round_is_not_summed_in_backward(fields: Path) -> None:
    result = certify(case(fields, 2, sabotage=rounds_keep_their_gradient))
    assert not passed(result) and result["max_grad_diff"] > 1e-9


@pytest.mark.slow
def test_passes_for_attention_over_ids_on_several_workers(tmp_path: Path) -> None:
    file = tmp_path / "attention.toml"
    head = 'schema_version = 1\nname = "attention"\n[input]\nfields = 3\nids_per_sample = 5.0\nvocabulary = 90\n'
    mlp = '[[operators]]\nkind = "mlp"\nwidths = [4, 3]\n'
    file.write_text(f'{head}[embedding]\nwidth = 4\npooling = "attention"\n{mlp}')
    result = certify(case(file, 2, "des_reduce_scatter"))
    assert passed(result) and {"round_1", "shared_grad"} <= {op["name"] for op in result["ops"]}


@pytest.mark.slow
def test_passes_for_nonlinear_pooling_of_whole_fields(tmp_path: Path) -> None:
    cases = []
    for pooling, operators in (("max", ("mlp", "cin", "lr")), ("attention", ("mlp", "fm_fields", "fm"))):
        file = tmp_path / f"{pooling}.toml"
        head = 'schema_version = 1\nname = "whole"\n[input]\nfields = 3\nids_per_sample = 5.0\nvocabulary = 90\n'
        rows = f'[embedding]\nwidth = 4\nplacement = "field"\npooling = "{pooling}"\n'
        widths = {"mlp": "widths = [4, 3]\n", "cin": "widths = [3]\nsplit = true\n"}
        kinds = (f'[[operators]]\nkind = "{kind}"\n{widths.get(kind, "")}' for kind in operators)
        file.write_text(head + rows + "".join(kinds))
        cases += [case(file, 2, strategy) for strategy in DES]
    results = certify_all(cases)
    assert all(map(passed, results)), results
    # Pooling is local: the mlp sends its own floats, and attention sums only the gradient of its few weights.
    for result in results[2:]:
        assert {op["name"] for op in result["ops"] if op["formula"] == "(D)*s"} == {"shared_grad"}
        assert not any(op["name"].startswith("round") for op in result["ops"])


@pytest.mark.slow
def test_passes_for_an_operator_with_its_own_strategy(tmp_path: Path) -> None:
    file = tmp_path / "mixed.toml"
    head = 'schema_version = 1\nname = "mixed"\n[input]\nfields = 3\nids_per_sample = 5.0\nvocabulary = 90\n'
    operators = '[embedding]\nwidth = 4\n[[operators]]\nkind = "lr"\n[[operators]]\nkind = "fm"\n'
    file.write_text(f'{head}{operators}[[operators]]\nkind = "mlp"\nwidths = [16, 3]\nstrategy = "mesh"\n')
    results = certify_all([case(file, 2, strategy) for strategy in DES])
    assert all(map(passed, results)), results
    assert "shared_grad" not in {op["name"] for result in results for op in result["ops"]}


@pytest.mark.slow
def test_passes_for_mean_pooling_of_ids_on_several_workers(tmp_path: Path) -> None:
    file = tmp_path / "mean.toml"
    head = 'schema_version = 1\nname = "mean"\n[input]\nfields = 3\nids_per_sample = 5.0\nvocabulary = 90\n'
    mlp = '[[operators]]\nkind = "mlp"\nwidths = [4, 3]\n'
    file.write_text(f'{head}[embedding]\nwidth = 4\npooling = "mean"\n{mlp}')
    result = certify(case(file, 2))
    (ids,) = (op for op in result["ops"] if op["name"] == "ids")
    assert passed(result) and ids["formula"] == "(B/N)*m*(k+2*c)"


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """An autoencoder with three fields of different weights; with four ranks one rank has none."""
    file = tmp_path / "profiles.toml"
    head = 'schema_version = 1\nname = "profiles"\n[input]\nfields = 3\nids_per_sample = 5.0\nvocabulary = 90\n'
    fvae = '[[operators]]\nkind = "fvae"\nwidths = [5, 4]\nlatent = 3\nbeta = 0.3\nalpha = [1.0, 0.5, 2.0]\n'
    file.write_text(f"{head}[embedding]\nwidth = 4\n{fvae}")
    return file


@pytest.mark.slow
def test_passes_for_a_softmax_over_ids_on_several_workers(profiles: Path) -> None:
    by_hash = replace(case(profiles, 4), placement="hash", optimizer="adam")
    by_field = replace(case(profiles, 4, "des_reduce_scatter"), placement="field")
    for result in certify_all([by_hash, by_field]):
        names = {op["name"] for op in result["ops"]}
        assert passed(result) and {"scores_max", "scores_sum", "codes_grad"} <= names, result
        assert ("codes" in names) == (result["strategy"] == "des_reduce_scatter")


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", [softmaxes_of_each_worker, codes_keep_their_own_gradient])
def test_fails_when_a_softmax_covers_only_one_workers_ids(sabotage: Any, profiles: Path) -> None:
    result = certify(case(profiles, 2, steps=2, sabotage=sabotage))
    assert not passed(result) and result["bytes_match"] and result["max_grad_diff"] > 1e-9


@pytest.mark.slow
def test_fails_when_every_replica_adds_its_tails_gradient(crossed: Path) -> None:
    result = certify(case(crossed, 2, sabotage=every_replica_adds_its_tail))
    assert not passed(result) and result["bytes_match"] and result["max_grad_diff"] > 1e-9


@pytest.mark.slow
def test_passes_when_ranks_hold_no_ids(tmp_path: Path) -> None:
    file = tmp_path / "few.toml"
    head = 'schema_version = 1\nname = "few"\n[input]\nfields = 2\nids_per_sample = 3.0\nvocabulary = 2\n'
    file.write_text(f'{head}[embedding]\nwidth = 5\n[[operators]]\nkind = "mlp"\nwidths = [4, 3]\n')
    # There are two ids, so at least two ranks hold none.
    results = certify_all([case(file, 4, strategy) for strategy in DES])
    assert all(map(passed, results)), results


@pytest.mark.slow
def test_fails_when_the_gradient_is_all_reduced_again(tiny: Path) -> None:
    result = certify(case(tiny, 2, sabotage=all_reduce_again))
    assert not passed(result)
    assert result["max_grad_diff"] > 1e-6 and result["max_param_diff"] > 1e-6
    # The extra message is detected as well, because the plan has no such op.
    (extra,) = (op for op in result["ops"] if op["name"] == UNPLANNED)
    assert extra["recorded_bytes"] > 0 and not result["bytes_match"]


@pytest.mark.slow
def test_fails_when_the_gradient_of_w1_is_not_summed(tiny: Path) -> None:
    result = certify(case(tiny, 2, steps=2, sabotage=shared_weights_keep_their_own_gradient))
    # Every byte is as planned; only the values show the mistake, because W1 differs between workers.
    assert not passed(result) and result["bytes_match"] and result["max_param_diff"] == sys.float_info.max


@pytest.mark.slow
def test_fails_when_pooled_field_fm_is_placed_by_hash(tmp_path: Path) -> None:
    file = tmp_path / "split.toml"
    head = 'schema_version = 1\nname = "split"\n[input]\nfields = 3\nids_per_sample = 5.0\nvocabulary = 90\n'
    file.write_text(f'{head}[embedding]\nwidth = 4\n[[operators]]\nkind = "fm_fields"\n')
    with pytest.raises(ModelError, match="the square of a field's sum"):
        load_model(file)
    alone, split = (certify(case(file, ranks, steps=2, sabotage=hash_placement_is_forced)) for ranks in (1, 2))
    assert passed(alone)  # on one worker, which has all ids of a field, hash placement is harmless
    assert not passed(split) and split["bytes_match"] and 1e-9 < split["max_param_diff"] < 1


@pytest.mark.slow
def test_fails_when_a_rank_touches_rows_it_does_not_own(tiny: Path) -> None:
    result = certify(case(tiny, 2, steps=1, sabotage=wrong_owner))
    assert not passed(result) and result["max_loss_diff"] == sys.float_info.max


@pytest.mark.slow
def test_fails_when_more_bytes_travel_than_planned(tiny: Path) -> None:
    result = certify(case(tiny, 2, steps=2, sabotage=labels_sent_twice))
    assert not passed(result) and not result["bytes_match"] and result["max_param_diff"] < 1e-12
    (labels,) = (op for op in result["ops"] if op["name"] == "labels")
    assert labels["recorded_bytes"] == 2 * labels["formula_bytes"] and labels["mismatches"] == 4


@pytest.mark.slow
def test_fails_when_replicas_differ(tiny: Path) -> None:
    result = certify(case(tiny, 2, steps=2, sabotage=replica_differs))
    assert not passed(result) and result["max_param_diff"] == sys.float_info.max


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "strategy", "name", "mismatches"),
    [
        (scatter_by_all_reduce, "des_reduce_scatter", "partials", 2),
        (partials_twice, "des_all_reduce", "partials", 2),
        (labels_never_sent, "des_all_reduce", "labels", 2),
    ],
)
def test_fails_when_collectives_differ_from_the_plan(
    sabotage: Any, strategy: str, name: str, mismatches: int, tiny: Path
) -> None:
    result = certify(case(tiny, 2, strategy, steps=1, sabotage=sabotage))
    (op,) = (op for op in result["ops"] if op["name"] == name)
    assert not passed(result) and not result["bytes_match"] and op["mismatches"] == mismatches


@pytest.mark.parametrize("where", ["w", "v"])
def test_a_nan_gives_the_largest_distance(where: str) -> None:
    zeros = {"w": torch.zeros(2, 1), "v": torch.zeros(2, 3)}
    poisoned = zeros | {where: zeros[where].clone().fill_(float("nan"))}
    assert distance(zeros, zeros) == 0.0
    assert distance(poisoned, zeros) == sys.float_info.max


@pytest.mark.parametrize("ids", [[3, 7], [3, 5], [3, 9]])
def test_gradients_of_an_id_that_no_sample_has_are_nan(ids: list[int], tiny: Path) -> None:
    """5 is between two ids of the vocabulary, 9 behind all of them."""
    network = Network(load_model(tiny), 0, torch.float64, "cpu")
    grads = {name: torch.ones(2, width, dtype=torch.float64) for name, width in network.row_widths.items()}
    none = torch.empty(0)
    result = StepResult(loss=none, counts=Counts(0), row_ids=torch.tensor(ids), row_grads=grads, out=none, targets=none)
    for grad in row_grads(network, torch.tensor([2, 3, 7]), result).values():
        if ids == [3, 7]:
            assert grad[:, 0].tolist() == [0, 1, 1]
        else:
            assert grad.isnan().all()
