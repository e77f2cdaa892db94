"""Which cases there are: every shipped model x allowed placement x strategy x row optimizer x number of ranks.

Placement is DES's: the other strategies have places of their own, and run once, as the model file says. All models run
small (case.shrunk): formulas and sums are those of any size, and a case takes tenths of a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import combinations

from des_ref.certify.case import Case
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.strategies import STRATEGIES, VARIANTS
from dessim.errors import ModelError, UsageError
from dessim.workload.model import load_model
from dessim.workload.strategies import plan, spec_of

_PLACEMENTS = ("hash", "field")
EVERY_STRATEGY = (*STRATEGIES, *VARIANTS)


def shipped_models() -> list[str]:
    """Names of the models that dessim ships."""
    folder = files("dessim.workload").joinpath("models")
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def placements(model: str, strategy: str) -> list[str]:
    """Where the model's rows may be under a strategy: none that gives wrong values, none that changes nothing."""
    own = load_model(model).embedding.placement
    allowed = []
    for placement in _PLACEMENTS if spec_of(strategy).substitutes else (own,):
        try:
            plan(strategy, load_model(model).placed(placement))
        except (ModelError, UsageError):
            continue
        allowed.append(placement)
    return allowed


def every_case(
    ranks: Sequence[int], steps: int, device: str, pipeline: bool, staleness: int, models: Sequence[str] | None = None
) -> list[Case]:
    """All cases, of shipped models unless others are named: those of one process group in a row, within it those that
    share a reference. Raises ModelError."""
    models = models or shipped_models()
    allowed = {(model, strategy): placements(model, strategy) for model in models for strategy in EVERY_STRATEGY}
    return [
        Case(n, steps, model, strategy, device, pipeline, optimizer, staleness, placement, small=True)
        for n in ranks
        for is_async in (False, True)
        for model in models
        for optimizer in ROW_OPTIMIZERS
        for placement in _PLACEMENTS
        for strategy in EVERY_STRATEGY
        if spec_of(strategy).synchronous != is_async and placement in allowed[model, strategy]
    ]


def pairwise(cases: Sequence[Case]) -> list[Case]:
    """A subset in which every two choices that occur together in `cases` still do.

    Greedy: the case with the most new pairs; of equals the one whose choices were made least, so that not everything
    that is left to choose becomes one rank and the first optimizer.
    """
    bits: dict[tuple[tuple[int, object], ...], int] = {}
    masks = [sum(1 << bits.setdefault(pair, len(bits)) for pair in _pairs(case)) for case in cases]
    missing, chosen = (1 << len(bits)) - 1, set()
    made: Counter[tuple[int, object]] = Counter()
    while missing:
        best = max(
            range(len(cases)),
            key=lambda i: ((masks[i] & missing).bit_count(), -sum(made[choice] for choice in _choices(cases[i]))),
        )
        chosen.add(best)
        made.update(_choices(cases[best]))
        missing &= ~masks[best]
    return [cases[i] for i in sorted(chosen)]


def _choices(case: Case) -> Iterator[tuple[int, object]]:
    return enumerate((case.ranks, case.model, case.placement, case.strategy, case.optimizer))


def _pairs(case: Case) -> Iterator[tuple[tuple[int, object], ...]]:
    return combinations(_choices(case), 2)
