"""A second, independent implementation of a step's random draws, for the reference: one sample and layer at a time.

It follows the description: word j of a stream with key k is f(k + j g), f the finaliser of splitmix64 and g its
increment. A layer's stream for the sample at place p of the global batch has the key f(p g + f(f(f(seed) + step) +
layer)). It shares with the trainer the model file only.

    dropout    unit 2 j is the lower half of word j, unit 2 j + 1 the upper half, as a signed number s of 32 bits; it is
               kept where s + 2^31 < keep 2^32, and then multiplied by 1 / keep
    code       Normal(0, 1) of n units by Box-Muller, from the stream of key f(k): with h = ceil(n / 2), and u_j in
               (0, 1) from the upper 53 bits of word j, unit j < h is sqrt(-2 ln u_j) cos(2 pi u_{j+h}), and unit h + j
               has the sine
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dessim.workload import operators as specs
from dessim.workload.model import Model

_WORD = 1 << 64
_INCREMENT = 0x9E3779B97F4A7C15


def plain_draws(model: Model, seed: int, step: int, places: Sequence[int]) -> list[Tensor] | None:
    """float64 [b, width] for each layer that draws, in the order of the operators; None if none of them draws."""
    layers = [layer for spec in model.operators for layer in _layers(spec)]
    if all(keep == 1.0 for _, keep in layers):
        return None
    of_step = _finish(_finish(seed) + step)
    drawn = []
    for number, (width, keep) in enumerate(layers):
        of_layer = _finish(of_step + number)
        keys = [_finish(place * _INCREMENT + of_layer) for place in places]
        lines = [_normal(_finish(key), width) if keep is None else _mask(key, width, keep) for key in keys]
        drawn.append(torch.tensor(lines, dtype=torch.float64).view(len(places), width))
    return drawn


def _layers(spec: specs.AnySpec) -> list[tuple[int, float | None]]:
    """Width and share of kept units of each layer for which an operator draws; None in place of the share: a code."""
    match spec:
        case specs.Mlp() | specs.Nfm() | specs.Dot():
            return [(width, 1.0 - spec.dropout) for width in spec.widths]
        case specs.Fvae():
            return [(spec.latent, None)]
        case _:
            return []


def _finish(word: int) -> int:
    word %= _WORD
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        word = (word ^ (word >> shift)) * factor % _WORD
    return word


def _word(key: int, j: int) -> int:
    return _finish(key + (j + 1) * _INCREMENT)


def _mask(key: int, width: int, keep: float) -> list[float]:
    words = [_word(key, j) for j in range((width + 1) // 2)]
    halves = [(words[unit // 2] >> (32 * (unit % 2))) % (1 << 32) for unit in range(width)]
    return [1.0 / keep if (half + (1 << 31)) % (1 << 32) < keep * 2**32 else 0.0 for half in halves]


def _normal(key: int, width: int) -> list[float]:
    half = (width + 1) // 2
    u = [((_word(key, j) >> 11) + 0.5) / 2**53 for j in range(2 * half)]
    pairs = [(math.sqrt(-2 * math.log(u[j])), 2 * math.pi * u[j + half]) for j in range(half)]
    values = [r * math.cos(a) for r, a in pairs] + [r * math.sin(a) for r, a in pairs]
    return values[:width]
