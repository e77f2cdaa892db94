"""What values may travel as instead of floats: the forms that plans price and the trainer sends (des_ref/codecs).

    fp32               as they are; exact
    bf16, fp16         16-bit floats, which collectives can add up
    fp6                6-bit floats under a scale that fits log-normal values (Chmiel et al., arXiv 2006.08173)
    top_k:0.25         of each row the largest quarter of its values (DCT's activations, Gupta et al., arXiv 2010.08899)
    threshold:0.99     what reaches a threshold that a hundredth does; the rest is added to the next step's values; the
                       threshold is found anew every 1,000 steps, or as many as a second number says (DCT's gradients)
    pruning:0.8        small values become 0 or a threshold at random, unbiased; four fifths become 0 (Chmiel et al.)

A message of `rows` rows of `width` values is, in bytes,

    header  +  rows * row(width)  +  entry * (how many values are not zero)

where the last term is not known before: its share is a symbol, and what a plan expects of it is 1 - sparsity. What is
sent to each worker is one message.

How a sum is made of encoded values: 16-bit floats the collective adds up itself. Where every row takes the same space,
each worker receives its share of the rows from all others, adds them up as floats and sends the sum encoded again: an
AllReduce made of an AllToAll and an AllGather. Where the space depends on the values, everyone receives everyone's and
adds them up: they are few, and nothing is lost twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from dessim.errors import UsageError

REFRESH = 1000  # steps between two thresholds: "every few thousand" in the paper, whose runs are far longer


class Buffer(StrEnum):
    """What an op carries: operands and partial sums; their gradients; gradients of replicated weights."""

    ACTIVATIONS = "activations"
    GRADIENTS = "gradients"
    DENSE = "dense"


class Sum(StrEnum):
    """How encoded values are added up over workers."""

    REDUCE = "reduce"  # by the collective
    SCATTER = "scatter"  # by the owner of a share of the rows
    GATHER = "gather"  # by everyone


@dataclass(frozen=True, slots=True)
class Work:
    """Of a pass over values, as the trainer makes it of torch calls: kernels, how often each value is read or written
    beside the message, FLOPs a value (assumed). Kernels that do all at once would do with two touches."""

    kernels: int
    touches: int
    flops: int


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """One form. `row` is bytes of a row, a formula with {w} for its width; `entry` bytes of a value that is not zero,
    a formula; `density` the share of values that are expected not to be; `settings` the numbers behind its name."""

    name: str
    row: str
    sums: Sum
    buffers: tuple[Buffer, ...]
    encode: Work
    decode: Work
    header: int = 0
    entry: str = ""
    density: float = 1.0
    settings: tuple[float, ...] = ()
    exact: bool = False
    of_samples: bool = False  # whether a row must be what one sample has in the buffer of partials

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{x:g}" for x in self.settings)])

    @property
    def varies(self) -> bool:
        """Whether the size of a message depends on the values in it."""
        return bool(self.entry)

    def size(self, messages: str, rows: str, width: str, density: str) -> str:
        """Bytes of so many messages with so many rows together; `density` names the share that is not zero."""
        row = self.row.format(w=factor(width))
        terms = [f"{messages}*{self.header}"] if self.header else []
        terms += [product(rows, row)] if row != "0" else []
        terms += [product(self.entry, density, rows, width)] if self.varies else []
        return " + ".join(terms)


def factor(text: str) -> str:
    """The formula as it may stand beside a `*`."""
    if text.isalnum():
        return text
    depth = 0
    for at, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if not depth and at < len(text) - 1 and not text[: at + 1].isalpha():
            return f"({text})"  # what is not within one pair of brackets, or one call
    return text


def product(*factors: str) -> str:
    """Of formulas, without the ones."""
    return "*".join(factor(f) for f in factors if f != "1") or "1"


_ALL = tuple(Buffer)
_GRADIENTS = (Buffer.GRADIENTS, Buffer.DENSE)


def _cast(name: str) -> CodecSpec:
    return CodecSpec(name, "2*{w}", Sum.REDUCE, _ALL, Work(1, 1, 1), Work(4, 4, 1))


def _share(name: str, text: str, number: str, what: str) -> float:
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise UsageError(f"codec {text!r}: write {what} between 0 and 1, such as {name}")
    return share


def parse_codec(text: str) -> CodecSpec:
    """A form as it is written, `top_k:0.25`. Raises UsageError."""
    name, *numbers = text.strip().split(":")
    match name, len(numbers):
        case "fp32", 0:
            return CodecSpec(name, "{w}*s", Sum.REDUCE, _ALL, Work(0, 0, 0), Work(0, 0, 0), exact=True)
        case "bf16" | "fp16", 0:
            return _cast(name)
        case "fp6", 0:
            return CodecSpec(name, "ceil(6*{w}/8)", Sum.SCATTER, _ALL, Work(37, 21, 25), Work(30, 8, 10), header=8)
        case "top_k", 1:
            kept = _share("top_k:0.25", text, numbers[0], "the share that is kept")
            buffers = (Buffer.ACTIVATIONS, Buffer.GRADIENTS)
            row = f"ceil({{w}}/8) + s*ceil({kept!r}*{{w}})"
            works = Work(12, 11, 20), Work(10, 8, 4)
            return CodecSpec(name, row, Sum.SCATTER, buffers, *works, settings=(kept,), of_samples=True)
        case "threshold", 1 | 2:
            zero = _share("threshold:0.99", text, numbers[0], "the share that waits")
            refresh = numbers[1] if len(numbers) > 1 else str(REFRESH)
            if not refresh.isdigit() or int(refresh) < 1:
                raise UsageError(f"codec {text!r}: write a number of steps, such as threshold:0.99:{REFRESH}")
            return CodecSpec(
                name,
                "0",
                Sum.GATHER,
                (Buffer.DENSE,),
                Work(15, 13, 4),
                Work(12, 6, 1),
                entry="4+s",
                density=1 - zero,
                settings=(zero, float(refresh)),
            )
        case "pruning", 1:
            zero = _share("pruning:0.8", text, numbers[0], "the share that becomes 0")
            return CodecSpec(
                name,
                "ceil({w}/8)",
                Sum.GATHER,
                _GRADIENTS,
                Work(37, 31, 12),
                Work(11, 8, 4),
                entry="s",
                density=1 - zero,
                settings=(zero,),
            )
    raise UsageError(f"codec {text!r}: use fp32, bf16, fp16, fp6, top_k:0.25, threshold:0.99 or pruning:0.8")


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """The form of each buffer that is not sent as it is. `strict`: each was asked for by name, so that one of which a
    strategy sends nothing is a mistake."""

    by_buffer: Mapping[Buffer, CodecSpec] = field(default_factory=dict)
    strict: bool = True

    @classmethod
    def of(cls, texts: Mapping[str, str], strict: bool = True) -> Self:
        """From forms by the names of buffers. Raises UsageError."""
        found = {}
        for key, text in texts.items():
            if key not in _ALL:
                raise UsageError(f"{key!r} is no buffer: codecs are of {', '.join(_ALL)}")
            form = parse_codec(text)
            if Buffer(key) not in form.buffers:
                raise UsageError(f"codec {text!r} is for {' and '.join(form.buffers)}, not for {key}")
            if not form.exact:
                found[Buffer(key)] = form
        return cls(found, strict)

    def __bool__(self) -> bool:
        return bool(self.by_buffer)

    def __str__(self) -> str:
        return ",".join(f"{buffer}={form}" for buffer, form in self.by_buffer.items()) or "fp32"


def parse_codecs(text: str) -> CodecConfig:
    """`activations=bf16,dense=threshold:0.99`, or one form for every buffer that may have it. Raises UsageError."""
    if "=" not in text:
        form = parse_codec(text)
        return CodecConfig.of({buffer: text for buffer in form.buffers}, strict=False)
    pairs = [part.split("=", 1) for part in text.split(",")]
    if any(len(pair) < 2 for pair in pairs):
        raise UsageError(f"codecs {text!r}: write them as activations=bf16,dense=threshold:0.99")
    return CodecConfig.of({buffer.strip(): form for buffer, form in pairs})
