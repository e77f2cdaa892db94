"""User-defined heads: which are accepted, and a clear one-line error for those that are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from des_ref import steps, train
from des_ref.certify import program as certify
from des_ref.substitution.head import Head
from dessim.errors import ModelError, UsageError
from dessim.workload.model import parse_model


class Sum(nn.Module):
    def __init__(self, *parts: nn.Module, keep: bool = False) -> None:
        super().__init__()
        self.parts, self.keep = nn.ModuleList(parts), keep

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled.flatten(1).sum(dim=1, keepdim=self.keep)


def linear(fields: int, width: int) -> nn.Module:
    return Sum(nn.Linear(2, 3))


def drops(fields: int, width: int) -> nn.Module:
    return Sum(nn.Dropout(0.1))


def normalises(fields: int, width: int) -> nn.Module:
    return Sum(nn.BatchNorm1d(3))


def columns(fields: int, width: int) -> nn.Module:
    return Sum(keep=True)


def no_module(fields: int, width: int) -> object:
    return 3


def raises(fields: int, width: int) -> nn.Module:
    raise ZeroDivisionError


class Fails(nn.Module):
    def forward(self, pooled: Tensor) -> Tensor:
        raise KeyError("pooled")


def fails(fields: int, width: int) -> nn.Module:
    return Fails()


def make(name: str, weights: int = 0, seed: int = 1) -> Head:
    return Head(f"{__name__}:{name}", 4, 2, weights, torch.Generator().manual_seed(seed))


def test_initial_values_come_from_the_seed_and_leave_the_global_generator_unchanged() -> None:
    state = torch.random.get_rng_state()
    a, b, c = (make("linear", 9, seed).module.parts[0].weight for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.dtype is torch.float64
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "weights", "error"),
    [
        ("absent", 0, "name an importable function"),
        ("no_module", 0, "must return a torch.nn.Module"),
        ("drops", 0, "has a Dropout"),
        ("normalises", 6, "has a BatchNorm1d"),
        ("linear", 10, "write weights = 9"),
        ("raises", 0, "raises ZeroDivisionError"),
        ("fails", 0, "raises KeyError: 'pooled' for vectors"),
        ("columns", 0, r"it must give logits \[2\]"),
    ],
)
def test_unsuitable_heads_are_refused(name: str, weights: int, error: str) -> None:
    with pytest.raises(UsageError, match=error):
        make(name, weights)


def test_a_head_must_be_named_as_module_and_function() -> None:
    operator = {"kind": "head", "module": "heads.py", "weights": 1, "multiply_adds": 1}
    raw = {
        "schema_version": 1,
        "name": "x",
        "input": {"fields": 2, "ids_per_sample": 2},
        "embedding": {"width": 2},
        "operators": [operator],
    }
    with pytest.raises(ModelError, match=r"operators\.0\.module"):
        parse_model(raw, "x.toml")


def test_code_that_a_model_file_names_runs_only_if_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harmful.py").write_text(f"open({str(tmp_path / 'done')!r}, 'w')\n")
    model = tmp_path / "model.toml"
    model.write_text(
        'schema_version = 1\nname = "x"\n[input]\nfields = 4\nids_per_sample = 4\nvocabulary = 9\n[embedding]\n'
        'width = 2\n[[operators]]\nkind = "head"\nmodule = "harmful:make"\nweights = 1\nmultiply_adds = 1\n'
    )
    (tmp_path / "jobs.json").write_text(json.dumps({"jobs": [{"model": str(model), "strategy": "row_wise"}]}))
    monkeypatch.syspath_prepend(tmp_path)
    trained = ["--model", str(model), "--data", "synthetic", "--device", "cpu"]
    for main, arguments in (
        (train.main, trained),
        (certify.main, ["--model", str(model)]),
        (certify.main, ["--model", str(model), "--all"]),
        (steps.main, [str(tmp_path / "jobs.json")]),
    ):
        with pytest.raises(UsageError, match="model x imports and runs harmful:make: add --allow-code"):
            main(arguments)
    assert not (tmp_path / "done").exists()
    with pytest.raises(UsageError, match="name an importable function"):  # the module has no function make
        train.main([*trained, "--allow-code"])
    assert (tmp_path / "done").exists()
