"""The cases of `--all` and `--quick`: every shipped model x allowed placement x strategy x row optimizer x rank count,
and some models with every pooling that their files do not have.

Only DES has a choice of placement; the other strategies fix where rows are, and run once, as the model file says. All
models are shrunk (case.shrunk): formulas and sums do not depend on the size, and a case takes tenths of a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

from des_ref.certify.case import Case
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.strategies import STRATEGIES, VARIANTS
from dessim.errors import ModelError, UsageError
from dessim.workload.model import Model, load_model, shipped_models
from dessim.workload.strategies import plan, spec_of

_PLACEMENTS = ("hash", "field")
# No shipped model pools by anything but sums. deepfm sends partials, or the operand under some poolings; dlrm always
# sends the operand.
_POOLED = ("deepfm", "dlrm")
_POOLINGS = (None, "mean", "max", "attention")
EVERY_STRATEGY = (*STRATEGIES, *VARIANTS)

Choice = tuple[int, object]  # (which axis, the value chosen on it)


def placements(model: Model, strategy: str, pooling: str | None = None) -> list[str]:
    """The placements of the model's rows that are correct under a strategy and that make a difference to it."""
    own = model.embedding.placement
    allowed = []
    for placement in _PLACEMENTS if spec_of(strategy).substitutes else (own,):
        try:
            plan(strategy, model.placed(placement).pooled(pooling))
        except (ModelError, UsageError):
            continue
        allowed.append(placement)
    return allowed


def poolings(model: str) -> tuple[str | None, ...]:
    """The poolings with which a model is certified; None is that of its file."""
    return _POOLINGS if model in _POOLED else (None,)


def every_case(
    ranks: Sequence[int],
    steps: int,
    device: str,
    *,
    pipeline: bool,
    staleness: int,
    models: Sequence[str] | None = None,
) -> list[Case]:
    """All cases of the shipped models, or of `models`. Raises ModelError.

    Cases of one process group follow each other; within a group, so do cases that share reference states.
    """
    models = models or shipped_models()
    loaded = {model: load_model(model) for model in models}
    kinds = [(model, pooling) for model in models for pooling in poolings(model)]
    allowed = {
        (model, pooling, strategy): placements(loaded[model], strategy, pooling)
        for model, pooling in kinds
        for strategy in EVERY_STRATEGY
    }
    return [
        Case(
            ranks=n,
            steps=steps,
            model=model,
            strategy=strategy,
            device=device,
            pipeline=pipeline,
            optimizer=optimizer,
            staleness=staleness,
            placement=placement,
            pooling=pooling,
            small=True,
        )
        for n in ranks
        for is_async in (False, True)
        for model, pooling in kinds
        for optimizer in ROW_OPTIMIZERS
        for placement in _PLACEMENTS
        for strategy in EVERY_STRATEGY
        if spec_of(strategy).synchronous != is_async and placement in allowed[model, pooling, strategy]
    ]


def pairwise(cases: Sequence[Case]) -> list[Case]:
    """A subset in which any two choices that occur together in `cases` still occur together.

    Greedy: take the case with the most new pairs. Ties go to the case whose choices have been taken least; without
    that rule, every choice that remains free would fall on one rank and the first optimizer.
    """
    bits: dict[tuple[Choice, ...], int] = {}
    masks = [sum(1 << bits.setdefault(pair, len(bits)) for pair in _pairs(case)) for case in cases]
    missing = (1 << len(bits)) - 1
    chosen: set[int] = set()
    times_taken: Counter[Choice] = Counter()

    def taken(i: int) -> int:
        return sum(times_taken[choice] for choice in _choices(cases[i]))

    while missing:
        new_pairs = [(mask & missing).bit_count() for mask in masks]
        most = max(new_pairs)
        best = min((i for i, new in enumerate(new_pairs) if new == most), key=taken)
        chosen.add(best)
        times_taken.update(_choices(cases[best]))
        missing &= ~masks[best]
    return [cases[i] for i in sorted(chosen)]


def _choices(case: Case) -> Iterator[Choice]:
    return enumerate((case.ranks, case.model, case.placement, case.pooling, case.strategy, case.optimizer))


def _pairs(case: Case) -> Iterator[tuple[Choice, ...]]:
    return combinations(_choices(case), 2)
