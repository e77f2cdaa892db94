"""Codecs: how values are represented on the wire.

base.py defines the interface, every other file one codec; dessim.workload.codecs has the size formulas.
"""

from __future__ import annotations

import torch

from des_ref.codecs.base import Codec
from des_ref.codecs.cast import Cast
from des_ref.codecs.fp6 import Fp6
from des_ref.codecs.message import Encoded
from des_ref.codecs.pruning import Pruning
from des_ref.codecs.threshold import Threshold
from des_ref.codecs.top_k import TopK
from dessim.workload.codecs import CodecSpec

__all__ = ["CODECS", "Codec", "Encoded", "new_codec"]

CODECS: dict[str, type[Codec]] = {
    "fp32": Cast,
    "bf16": Cast,
    "fp16": Cast,
    "fp6": Fp6,
    "top_k": TopK,
    "threshold": Threshold,
    "pruning": Pruning,
}


def new_codec(form: CodecSpec, dtype: torch.dtype, seed: int = 0) -> Codec:
    """A new codec for values of type `dtype`, for one op on one worker. `seed` matters to codecs that draw."""
    return CODECS[form.name](form, dtype, seed)
