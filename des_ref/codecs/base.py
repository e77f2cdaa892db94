"""What every codec offers: values to bytes and back, how many bytes, and whether anything is lost."""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.codecs.message import Encoded
from dessim.workload import formula
from dessim.workload.codecs import CodecSpec


class Codec:
    """One form (dessim.workload.codecs) of the values of one op. It may keep something from step to step.

    `form` has the sizes: what `encode` makes is that many bytes. `form.exact` says that `decode` gives back the same
    bits; else what comes back is near, or is it on average.
    """

    keeps_state: bool = False  # whether what a step sends depends on what earlier ones left here
    masks: bool = False  # whether values that were not sent have no gradient

    def __init__(self, form: CodecSpec, dtype: torch.dtype, seed: int = 0) -> None:
        self.form, self.dtype = form, dtype
        self.nonzero_in = 0  # non-zero values passed to `encode`, counted where a codec prunes
        self.nonzero_out = 0  # how many of them were still non-zero when sent

    def encode(self, values: Tensor) -> Encoded:
        """One message of [n, w]."""
        raise NotImplementedError

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        """[n, w] of all its messages."""
        raise NotImplementedError

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Bytes of a header, of a row of `width` values, of an entry."""
        known = {"s": float(self.dtype.itemsize)}
        row = round(formula.evaluate(self.form.row.format(w=width), known))
        entry = round(formula.evaluate(self.form.entry, known)) if self.form.entry else 0
        return self.form.header, row, entry
