"""The interface of all codecs: values to bytes and back, and the number of bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.codecs.message import Encoded
from dessim.workload.codecs import CodecSpec
from dessim.workload.formula import number


class Codec:
    """Encodes and decodes the values of one op. Some codecs keep state from step to step.

    `form` (dessim.workload.codecs) has the size formulas, and messages have exactly these sizes. If `form.exact` is
    set, `decode` returns the same bits; otherwise it returns values that are close, or right on average.
    """

    keeps_state: bool = False  # whether the messages of a step depend on earlier steps
    masks: bool = False  # whether values that are not sent get no gradient

    def __init__(self, form: CodecSpec, dtype: torch.dtype, seed: int = 0) -> None:
        self.form = form
        self.dtype = dtype
        self.nonzero_in = 0  # non-zero values passed to `encode`, counted where a codec prunes
        self.nonzero_out = 0  # how many of them were still non-zero when sent

    def encode(self, values: Tensor) -> Encoded:
        """Encode values [n, w] as one message."""
        raise NotImplementedError

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        """The values [n, w] of all messages in `encoded`, where w is `width`."""
        raise NotImplementedError

    def sizes(self, width: int) -> tuple[int, int, int]:
        """Bytes of a header, of a row of `width` values, and of an entry (0: the codec has no entries)."""
        symbols = {"s": float(self.dtype.itemsize)}
        row = round(self.form.row(number(width)).evaluate(symbols))
        entry = round(self.form.entry.evaluate(symbols))
        return self.form.header, row, entry
