"""Lines of text from inputs one after the other: files, also .gz, named pipes, standard input.

Nothing here waits for long: where nothing has come yet, `take` says so. With `follow` the last input has no end: of a
file more is awaited (as `tail -f` does), of a named pipe the next writer. A line counts when its end has come; the last
one of an input without `follow` counts without, too.
"""

from __future__ import annotations

import gzip
import io
import os
import select
import stat
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from dessim.errors import FileError

STDIN = "-"
WAIT_S = 0.2
_BLOCK = 1 << 20  # bytes
_LONGEST = 1 << 20  # bytes of a line: what is longer is no text


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next line stands: in which input, at which byte of its text, and how many lines of it are before."""

    input: int = 0
    name: str = ""  # the input's, without its folder: a file may have moved
    byte: int = 0
    line: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        return cls(**saved)


def is_seekable(name: str) -> bool:
    """Whether an input can be read again from where a run has come to."""
    try:
        return stat.S_ISREG((os.fstat(0) if name == STDIN else Path(name).stat()).st_mode)
    except OSError:
        return True  # what is not there is said when it is opened


class Input:
    """One of them, open. Raises FileError."""

    def __init__(self, name: str, follow: bool) -> None:
        self.name, self._follow = name, follow
        self._packed: gzip.GzipFile | None = None
        try:
            self._fd = os.dup(0) if name == STDIN else os.open(name, os.O_RDONLY | os.O_NONBLOCK)
            kind = os.fstat(self._fd).st_mode
            if stat.S_ISDIR(kind):
                raise FileError(name, "", "is a folder: name its files, in their order")
            self.is_seekable = stat.S_ISREG(kind)
            if name.endswith(".gz"):
                if follow:
                    raise FileError(name, "", "is packed, and stream.follow (--follow) awaits lines of plain text")
                self._packed = gzip.GzipFile(fileobj=io.FileIO(os.dup(self._fd)))
        except OSError as error:
            raise FileError(self.label, "", f"cannot be read: {error.strerror}") from None
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    @property
    def label(self) -> str:
        return "standard input" if self.name == STDIN else self.name

    def seek(self, byte: int) -> None:
        """Go on behind so many bytes of text."""
        try:
            if self._packed is not None:
                self._packed.seek(byte)
            else:
                self._check_size(byte)
                os.lseek(self._fd, byte, os.SEEK_SET)
        except (OSError, EOFError) as error:
            raise FileError(self.label, "", f"cannot be read from byte {byte:,} on: {error}") from None

    def read(self) -> bytes | None:
        """What there is; empty at the end, None where nothing has come for WAIT_S."""
        try:
            if self._packed is not None:
                return self._packed.read1(_BLOCK)
            if not self.is_seekable and not self._has_come():
                return None
            data = os.read(self._fd, _BLOCK)
            if data or not self._follow:
                return data
            if self.is_seekable:
                self._check_size(os.lseek(self._fd, 0, os.SEEK_CUR))
        except (OSError, EOFError) as error:
            raise FileError(self.label, "", f"cannot be read: {error}") from None
        time.sleep(WAIT_S)
        return None

    def close(self) -> None:
        if self._packed is not None:
            self._packed.close()
        os.close(self._fd)

    def _has_come(self) -> bool:
        """Whether a pipe has something, or has been left by all who write into it."""
        return bool(self._poll.poll(WAIT_S * 1000))

    def _check_size(self, byte: int) -> None:
        size = os.fstat(self._fd).st_size
        if size < byte:
            raise FileError(self.label, "", f"has {size:,} bytes, but {byte:,} were read: it is another file now")


class Lines:
    """Lines of all inputs, from a position on. `position` is that of the next line that `take` gives."""

    def __init__(self, inputs: Sequence[str], follow: bool, start: Position | None = None) -> None:
        self._inputs, self._follow = tuple(inputs), follow
        self.position = start or Position()
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._input: Input | None = None
        self.is_over = False

    def take(self, most: int) -> list[bytes]:
        """Up to `most` lines of one input, with `label` and number of the first; none where none have come yet, or
        where it `is_over`. Raises FileError."""
        if not self._lines and not self.is_over:
            self._fill()
        lines = [self._lines.popleft() for _ in range(min(most, len(self._lines)))]
        at = self.position
        if lines:
            self.position = Position(at.input, at.name, at.byte + sum(map(len, lines)), at.line + len(lines))
        return lines

    @property
    def label(self) -> str:
        """Of the input that the next lines are of."""
        return self._input.label if self._input is not None else ""

    def close(self) -> None:
        if self._input is not None:
            self._input.close()
            self._input = None

    def _fill(self) -> None:
        if self._input is None:
            self._open()
        assert self._input is not None
        data = self._input.read()
        if data is None:
            return
        if not data:
            if self._rest:
                self._lines.append(self._rest)
                self._rest = b""
            else:
                self._next()
            return
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST:
            raise FileError(self.label, str(self.position.line + len(whole) + 1), f"has more than {_LONGEST:,} bytes")
        self._lines.extend(line + b"\n" for line in whole)

    def _open(self) -> None:
        at = self.position
        if at.input >= len(self._inputs):
            what = f"input {at.input + 1} was {at.name} before, and there are {len(self._inputs)} now"
            raise FileError(self._inputs[-1], "", f"{what}: give the same inputs, or more")
        name = self._inputs[at.input]
        own = Path(name).name if name != STDIN else STDIN
        if at.name and at.name != own:
            raise FileError(name, "", f"input {at.input + 1} was {at.name} before: give the same inputs, or more")
        self._input = Input(name, self._follow and at.input + 1 == len(self._inputs))
        if at.byte and self._input.is_seekable:
            self._input.seek(at.byte)
        self.position = Position(at.input, own, *((at.byte, at.line) if self._input.is_seekable else (0, 0)))

    def _next(self) -> None:
        """The input is at its end."""
        self.close()
        if self.position.input + 1 == len(self._inputs):
            self.is_over = True
        else:
            self.position = Position(self.position.input + 1)
