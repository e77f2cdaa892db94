"""The models of the study, and the bytes that the plans' formulas state for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dessim.workload.ids import ZipfLaw
from dessim.workload.model import Model, parse_model
from dessim.workload.strategies import plan

HERE = Path(__file__).parent


def model_of(study: Mapping[str, Any], entry: Mapping[str, Any], ids_per_sample: int) -> Model:
    """The model of an `entry` of study.toml whose samples have `ids_per_sample` fields with one id each."""
    raw = {
        "schema_version": 1,
        "name": entry["name"],
        "input": {
            "fields": ids_per_sample,
            "ids_per_sample": ids_per_sample,
            "batch_per_worker": study["batch_per_worker"],
            "vocabulary": study["vocabulary"],
            "skew": study["skew"],
        },
        "embedding": {"width": study["width"]},
        "operators": entry["operators"],
    }
    return parse_model(raw, HERE / "study.toml")


def sent(model: Model, strategy: str, workers: int) -> float:
    """Bytes that all workers send in a step, by formula, with the distinct ids of the law of des_ref's samples.

    Its r-th id has the probability of x**-skew over [r, r + 1].
    """
    law = ZipfLaw(model.input.vocabulary, model.input.skew, model.input.fields, offset=0.5)
    return workers * plan(strategy, model).sent_bytes(model.symbols(workers, unique=law.unique))


def saved(model: Model, strategies: tuple[str, str], workers: int) -> float:
    """The share of bytes that the first strategy saves from the second, by formula."""
    ours, theirs = (sent(model, strategy, workers) for strategy in strategies)
    return 1 - ours / theirs
