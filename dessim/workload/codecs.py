"""Codecs: the encodings in which values may be sent instead of as floats. Plans price them, des_ref/codecs runs them.

    fp32               floats as they are; exact
    bf16, fp16         16-bit floats, which collectives can add up
    fp6                6-bit floats under a scale that fits log-normal values (Chmiel et al., arXiv 2006.08173)
    top_k:0.25         of each row the largest quarter of its values (DCT's activations, Gupta et al., arXiv 2010.08899)
    threshold:0.99     the values whose magnitude reaches a threshold that 1 % of them reach; the remainder is added to
                       the values of the next step. The threshold is recomputed every 1,000 steps, or at the interval
                       given by a second number (DCT's gradients)
    pruning:0.8        small values become 0 or plus or minus a threshold at random, without bias; 80 % become 0
                       (Chmiel et al.)

A message of `rows` rows of `width` values has, in bytes,

    header  +  rows * row(width)  +  entry * (number of values that are not zero)

The last term depends on the data. A symbol stands for the share of values that are not zero; a plan expects it to be
1 - sparsity. Whatever is sent to one worker is one message.

`Sum` says how encoded values are summed over workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from dessim.errors import UsageError
from dessim.wording import did_you_mean
from dessim.workload.formula import ZERO, Formula, add_up, as_factor, ceil, product_of, tight_sum
from dessim.workload.symbols import s

REFRESH = 1000  # steps between two thresholds; DCT recomputes them "every few thousand" steps, in far longer runs


class Buffer(StrEnum):
    """The three kinds of values that an op may send. Each may have its own codec."""

    ACTIVATIONS = "activations"  # partial sums, pooled vectors and rows, in the forward pass
    GRADIENTS = "gradients"  # gradients of those
    DENSE = "dense"  # gradients of replicated weights


class Sum(StrEnum):
    """How encoded values are summed over workers.

    Casts to 16 bits are summed by the collective itself. If every row takes the same space, each worker receives its
    share of the rows from all others by AllToAll, sums them as floats, encodes the sums and AllGathers them. If the
    space depends on the values, each worker gathers all messages and sums them itself: the values are few, and none is
    encoded twice.
    """

    REDUCE = "reduce"  # by the collective
    SCATTER = "scatter"  # by the owner of a share of the rows
    GATHER = "gather"  # by every worker


@dataclass(frozen=True, slots=True)
class Work:
    """Costs of encoding or decoding with the trainer's torch calls (FLOPs are assumed).

    `kernels`: kernels launched. `touches`: reads and writes of each value in memory, beside those of the message.
    `flops`: FLOPs a value. A single fused kernel would need two touches.
    """

    kernels: int
    touches: int
    flops: int


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """One codec.

    `name`, `settings`: as written, `top_k:0.25`.
    `summing`: how its messages are summed over workers.
    `buffers`: the kinds of values that it may encode.
    `encode`, `decode`: costs of the two passes.
    `header`: bytes of a message's header.
    `entry`: bytes of a value that is not zero; ZERO if the size of a message does not depend on its values.
    `density`: the share of values that is expected not to be zero.
    `exact`: whether decoding returns the same bits.
    `of_samples`: whether it needs rows that belong to one sample, as in the buffer of partials.
    """

    name: str
    summing: Sum
    buffers: tuple[Buffer, ...]
    encode: Work
    decode: Work
    settings: tuple[float, ...] = ()
    header: int = 0
    entry: Formula = ZERO
    density: float = 1.0
    exact: bool = False
    of_samples: bool = False

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{setting:g}" for setting in self.settings)])

    @property
    def varies(self) -> bool:
        """Whether the size of a message depends on its values."""
        return bool(self.entry)

    def row(self, width: Formula) -> Formula:
        """Bytes of a row of `width` values, without entries."""
        match self.name:
            case "fp32":
                return width * s
            case "bf16" | "fp16":
                return 2 * width
            case "fp6":
                return ceil(6 * width / 8)
            case "top_k":  # a bit for each value, then the values that are kept
                (kept,) = self.settings
                return ceil(width / 8) + s * ceil(kept * width)
            case "pruning":
                return ceil(width / 8)
        assert self.name == "threshold", self.name
        return ZERO  # only entries

    def size(self, messages: Formula, rows: Formula, width: Formula, density: Formula) -> Formula:
        """Bytes of `messages` messages that hold `rows` rows together; `density` is the share that is not zero."""
        row = self.row(as_factor(width))
        sizes = [messages * self.header] if self.header else []
        if row:
            sizes.append(product_of(rows, row))
        if self.varies:
            sizes.append(product_of(self.entry, density, rows, width))
        return add_up(sizes)


_ALL = tuple(Buffer)
_GRADIENTS = (Buffer.GRADIENTS, Buffer.DENSE)


def parse_codec(text: str) -> CodecSpec:
    """The codec written as `top_k:0.25`. Raises UsageError."""
    name, *numbers = text.strip().split(":")
    match name, len(numbers):
        case "fp32", 0:
            free = Work(kernels=0, touches=0, flops=0)
            return CodecSpec(name, Sum.REDUCE, _ALL, encode=free, decode=free, exact=True)
        case "bf16" | "fp16", 0:
            return CodecSpec(
                name,
                Sum.REDUCE,
                _ALL,
                encode=Work(kernels=1, touches=1, flops=1),
                decode=Work(kernels=4, touches=4, flops=1),
            )
        case "fp6", 0:
            return CodecSpec(
                name,
                Sum.SCATTER,
                _ALL,
                encode=Work(kernels=37, touches=21, flops=25),
                decode=Work(kernels=30, touches=8, flops=10),
                header=8,
            )
        case "top_k", 1:
            kept = _share("top_k:0.25", text, numbers[0], "the share that is kept")
            return CodecSpec(
                name,
                Sum.SCATTER,
                (Buffer.ACTIVATIONS, Buffer.GRADIENTS),
                encode=Work(kernels=12, touches=11, flops=20),
                decode=Work(kernels=10, touches=8, flops=4),
                settings=(kept,),
                of_samples=True,
            )
        case "threshold", 1 | 2:
            zero = _share("threshold:0.99", text, numbers[0], "the share that waits")
            refresh = numbers[1] if len(numbers) > 1 else str(REFRESH)
            if not refresh.isdigit() or int(refresh) < 1:
                raise UsageError(f"codec {text!r}: write a number of steps, such as threshold:0.99:{REFRESH}")
            return CodecSpec(
                name,
                Sum.GATHER,
                (Buffer.DENSE,),
                encode=Work(kernels=15, touches=13, flops=4),
                decode=Work(kernels=12, touches=6, flops=1),
                settings=(zero, float(refresh)),
                entry=tight_sum(4, s),  # an int32 position and the value
                density=1 - zero,
            )
        case "pruning", 1:
            zero = _share("pruning:0.8", text, numbers[0], "the share that becomes 0")
            return CodecSpec(
                name,
                Sum.GATHER,
                _GRADIENTS,
                encode=Work(kernels=37, touches=31, flops=12),
                decode=Work(kernels=11, touches=8, flops=4),
                settings=(zero,),
                entry=s,
                density=1 - zero,
            )
    known = ("fp32", "bf16", "fp16", "fp6", "top_k", "threshold", "pruning")
    hint = did_you_mean(name, known) if name not in known else ""
    raise UsageError(f"codec {text!r}: {hint}use fp32, bf16, fp16, fp6, top_k:0.25, threshold:0.99 or pruning:0.8")


def _share(example: str, text: str, number: str, meaning: str) -> float:
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise UsageError(f"codec {text!r}: write {meaning} between 0 and 1, such as {example}")
    return share


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """The codec of each buffer that is not sent as floats.

    `strict`: whether each buffer was named, so that it is an error if a strategy sends nothing of it.
    """

    by_buffer: Mapping[Buffer, CodecSpec] = field(default_factory=dict)
    strict: bool = True

    @classmethod
    def of(cls, texts: Mapping[str, str], strict: bool = True) -> Self:
        """From codecs as text, by the names of buffers. Raises UsageError."""
        by_buffer = {}
        for key, text in texts.items():
            if key not in _ALL:
                raise UsageError(f"{key!r} is no buffer; codecs are for {', '.join(_ALL)}")
            codec = parse_codec(text)
            if Buffer(key) not in codec.buffers:
                raise UsageError(f"codec {text!r} is for {' and '.join(codec.buffers)}, not for {key}")
            if not codec.exact:
                by_buffer[Buffer(key)] = codec
        return cls(by_buffer, strict)

    def __bool__(self) -> bool:
        return bool(self.by_buffer)

    def __str__(self) -> str:
        return self.text or "fp32"

    @property
    def text(self) -> str:
        """The codecs as options and files state them; empty where there are none."""
        return ",".join(f"{buffer}={codec}" for buffer, codec in self.by_buffer.items())


PLAIN = CodecConfig()
"""No codec: all values travel as floats."""


def parse_codecs(text: str) -> CodecConfig:
    """`activations=bf16,dense=threshold:0.99`, or one codec for every buffer that may have it. Raises UsageError."""
    if "=" not in text:
        codec = parse_codec(text)
        return CodecConfig.of({buffer: text for buffer in codec.buffers}, strict=False)
    pairs = [part.split("=", 1) for part in text.split(",")]
    if any(len(pair) < 2 for pair in pairs):
        raise UsageError(f"codecs {text!r}: write them as activations=bf16,dense=threshold:0.99")
    return CodecConfig.of({buffer.strip(): codec for buffer, codec in pairs})
