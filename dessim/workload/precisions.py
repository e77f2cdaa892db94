"""`[precision]` of a model file: number formats of the dense layers, of rows, and of what workers send."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from dessim.compute import Precision
from dessim.errors import UsageError
from dessim.wording import in_words


def _stored(precision: Precision) -> Precision:
    if precision is Precision.TF32:
        raise ValueError("tf32 is for dense layers alone; write fp32, bf16, fp16 or fp8")
    return precision


Stored = Annotated[Precision, AfterValidator(_stored)]


class Precisions(BaseModel):
    """The precision of the dense layers, of the rows of tables, and of values on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dense: Precision = Precision.FP32
    rows: Stored = Precision.FP32
    wire: Stored = Precision.FP32

    @property
    def is_default(self) -> bool:
        """Whether all values are float32."""
        return self == Precisions()

    def __str__(self) -> str:
        return f"dense {self.dense}, rows {self.rows}, wire {self.wire}"

    def changed(self, text: str) -> Precisions:
        """These precisions with the changes of `dense=bf16,wire=fp16`. Raises UsageError."""
        changes: dict[str, str] = {}
        for part in text.split(","):
            name, equals, precision = [piece.strip() for piece in part.partition("=")]
            if not equals or name not in Precisions.model_fields or name in changes:
                raise UsageError(f"--precision {text!r}: write dense, rows or wire once each, such as dense=bf16")
            changes[name] = precision
        try:
            return Precisions.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            wrong = error.errors()[0]
            name = str(wrong["loc"][0])
            raise UsageError(f"--precision {name}={changes[name]}: {in_words(wrong)}") from None
