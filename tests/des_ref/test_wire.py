"""Codecs from the command line: settings, certificates, and recorded steps that are replayed and projected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from des_ref import train
from des_ref.certify import program
from des_ref.certify.case import Case
from des_ref.certify.group import certify
from des_ref.certify.show import BOUND, NAN_BOUND, lossy, passed, print_table, why
from des_ref.config import load_settings
from dessim.cli.app import app
from dessim.errors import FileError, UsageError
from dessim.trace.io import load_trace
from dessim.trace.schema import Collective, Kind
from dessim.workload import formula

CLUSTER = "h100-8x_rail_128"


def train_alone(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert train.main(["--data", "synthetic", *arguments, "--device", "cpu", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def decode_to_nan() -> None:
    """Every decoded value is NaN."""
    from des_ref.codecs.cast import Cast

    right = Cast.decode

    def decode(self: Any, encoded: Any, width: int) -> Any:
        return right(self, encoded, width) * float("nan")

    Cast.decode = decode  # type: ignore[method-assign]


def long_messages() -> None:
    """Messages are one byte longer than the formula says."""
    from dataclasses import replace

    import torch

    from des_ref.codecs.fp6 import Fp6

    encode, decode, sizes = Fp6.encode, Fp6.decode, Fp6.sizes

    def longer(self: Any, values: Any) -> Any:
        encoded = encode(self, values)
        return replace(encoded, header=torch.nn.functional.pad(encoded.header, (0, 1)))

    def shorter(self: Any, encoded: Any, width: int) -> Any:
        return decode(self, replace(encoded, header=encoded.header[:, :-1]), width)

    Fp6.encode, Fp6.decode = longer, shorter  # type: ignore[method-assign]
    Fp6.sizes = lambda self, width: (9, *sizes(self, width)[1:])  # type: ignore[method-assign]


def test_the_certificate_reports_the_encoding_loss(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = certify(Case(2, 3, str(tiny), "des_reduce_scatter", "cpu", codecs="activations=bf16,gradients=fp6"))
    assert passed(found) and found["bytes_match"] and not found["equivalent"]
    assert BOUND < found["max_param_diff"] < 1
    assert found["lost"].keys() == {"partials", "partials_grad"}
    assert 1e-4 < found["lost"]["partials"] < 2**-8 < found["lost"]["partials_grad"] < 0.26
    assert "not equivalent, because activations=bf16,gradients=fp6 is lossy" in lossy(found)
    print_table([found])
    assert lossy(found) in capsys.readouterr().out


def test_without_a_codec_it_is_equivalent(tiny: Path) -> None:
    found = certify(Case(2, 3, str(tiny), "des_reduce_scatter", "cpu", codecs="fp32"))
    assert found["equivalent"] and "lost" not in found and found["max_param_diff"] <= BOUND


def test_a_nan_fails_even_a_lossy_run(tiny: Path) -> None:
    case = Case(2, 2, str(tiny), "des_reduce_scatter", "cpu", codecs="gradients=bf16", sabotage=decode_to_nan)
    found = certify(case)
    assert not passed(found) and found["max_param_diff"] > NAN_BOUND and "parameters: NaN" in why(found)


def test_bytes_that_differ_from_the_formula_fail(tiny: Path) -> None:
    case = Case(2, 2, str(tiny), "des_reduce_scatter", "cpu", codecs="activations=fp6", sabotage=long_messages)
    found = certify(case)
    assert not passed(found) and "partials moved" in why(found)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--all", "--codec", "bf16"], "--codec certifies one model and strategy"),
        (["--codec", "bf17"], "codec 'bf17': did you mean bf16[?] use fp32"),
        (["--codec", "bf16", "--strategy", "ps_async"], "ps_async does not encode what it sends to servers"),
        (["--codec", "gradients=bf16"], "sends no gradients that can be encoded so"),
    ],
)
def test_impossible_certificates_are_refused_before_the_start(flags: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        program.main(flags)


def test_settings_take_codecs_by_buffer_or_for_all_buffers(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "deepfm"\n[wire]\nactivations = "bf16"\ndense = "threshold:0.99"\n')
    assert str(load_settings(file, {}).wire.codes) == "activations=bf16,dense=threshold:0.99:1000"
    assert str(load_settings(file, {"wire": {"all": "fp16"}}).wire.codes).count("fp16") == 3
    assert not load_settings(None, {}).wire.codes
    for wrong, problem in (
        ('activations = "zip"', "codec 'zip': use fp32"),
        ('dense = "top_k:0.1"', "is for activations and gradients, not for dense"),
        ('all = "bf16"\ndense = "fp6"', "leave it out, or dense"),
        ('rows = "bf16"', "wire.rows: unknown key"),
    ):
        file.write_text(f'model = "deepfm"\n[wire]\n{wrong}\n')
        with pytest.raises(FileError, match=problem):
            load_settings(file, {})


def test_a_run_with_codecs_reports_them_and_the_sparsity_of_pruning(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", str(tiny), "--steps", "12", "--strategy", "des_reduce_scatter")
    found = train_alone(capsys, *flags, "--codec", "activations=top_k:0.5,gradients=pruning:0.7")
    assert found["codecs"] == "activations=top_k:0.5,gradients=pruning:0.7"
    assert found["sparsity_by_op"].keys() == {"partials_grad"}
    assert 0.5 < found["sparsity_by_op"]["partials_grad"] < 0.9
    plain = train_alone(capsys, *flags)
    assert plain["codecs"] == "fp32" and plain["sparsity_by_op"] == {} and plain["logloss"] != found["logloss"]


def test_codecs_with_state_refuse_checkpoints(tiny: Path, tmp_path: Path) -> None:
    flags = ["--model", str(tiny), "--checkpoint", str(tmp_path), "--codec"]
    with pytest.raises(UsageError, match=r"dense=threshold:0\.9:1000 keep state that checkpoints do not save"):
        train.main([*flags, "dense=threshold:0.9"])


def test_a_checkpoint_is_resumed_only_with_its_own_codecs(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", str(tiny), "--checkpoint", str(tmp_path))
    train_alone(capsys, *flags, "--steps", "3", "--codec", "bf16")
    assert train_alone(capsys, *flags, "--steps", "5", "--codec", "bf16", "--resume")["resumed_from_step"] == 3
    with pytest.raises(FileError, match="codecs"):
        train.main(["--data", "synthetic", *flags, "--steps", "6", "--resume", "--device", "cpu"])


def test_a_recorded_run_with_codecs_is_replayed_and_projected(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.trace"
    codec = "activations=fp6,gradients=pruning:0.8,dense=threshold:0.9"
    flags = ("--strategy", "des_reduce_scatter", "--codec", codec, "--trace", str(path))
    train_alone(capsys, "--model", str(tiny), *flags, "--trace-steps", "2", "--trace-warmup", "2", "--steps", "12")
    trace = load_trace(path)
    names = {op.name for op in trace.ranks[0]}
    assert names >= {"partials_encode", "partials_wide", "partials_decode", "partials_grad_sizes", "tail_grad"}
    for op in trace.ranks[0]:
        if op.kind is Kind.COLLECTIVE:
            assert op.size is not None
            assert op.bytes == round(formula.evaluate(op.size, {**trace.header.symbols, **op.vars})), op.name
    kinds = {op.name: op.collective for op in trace.ranks[0]}
    assert kinds["partials"] is Collective.ALL_TO_ALL and kinds["partials_wide"] is Collective.REDUCE_SCATTER
    result = CliRunner().invoke(app, ["replay", str(path), "--cluster", CLUSTER, "--json"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["trace", "check", str(path)])
    assert result.exit_code == 0, result.output
    arguments = [
        "project",
        str(path),
        "--strategy",
        "des_reduce_scatter",
        "--cluster",
        CLUSTER,
        "--gpus",
        "8",
        "--json",
    ]
    plain, coded = (
        json.loads(CliRunner().invoke(app, [*arguments, *more]).stdout)["projection"][0]
        for more in ([], ["--codec", codec])
    )
    assert coded["bytes_per_worker"] < plain["bytes_per_worker"]
    assert f"codecs {codec}:1000: not equivalent" in coded["caveat"] and not plain["caveat"]


def test_projections_with_codecs_include_the_time_to_encode() -> None:
    arguments = ["project", "--model", "deepfm", "--strategy", "des_all_reduce", "--cluster", CLUSTER, "--gpus", "8"]
    rows = {
        codec: json.loads(CliRunner().invoke(app, [*arguments, "--json", "--codec", codec]).stdout)["projection"][0]
        for codec in ("fp32", "bf16", "fp6")
    }
    sent = [rows[codec]["bytes_per_worker"] for codec in ("fp32", "bf16", "fp6")]
    compute = [rows[codec]["compute_s"] for codec in ("fp32", "bf16", "fp6")]
    assert sent == sorted(sent, reverse=True) and compute == sorted(compute)
    result = CliRunner().invoke(app, [*arguments, "--codec", "gradients=bf16"])
    assert result.exit_code == 2 and "sends no gradients that can be encoded so" in result.output
    result = CliRunner().invoke(app, [*arguments, "--codec", "bf16", "--servers", "2"])
    assert result.exit_code == 2
