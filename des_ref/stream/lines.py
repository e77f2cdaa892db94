"""Lines of text from a sequence of inputs: files, also .gz, named pipes, standard input.

Nothing blocks for long: where no line has arrived, `take` returns none. With `follow` the last input has no end: a file
is watched for more (like `tail -f`), a named pipe waits for the next writer. A line is complete once its newline has
arrived; the last line of an input without `follow` needs no newline.
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
_MAX_LINE = 1 << 20  # bytes; a longer line is not text


@dataclass(frozen=True, slots=True)
class Position:
    """The position of the next line.

    input  index of the input
    name   the input's name without its folder, because a file may move
    byte   offset in the input's text (of a .gz file: unpacked)
    line   number of lines before it in the input
    """

    input: int = 0
    name: str = ""
    byte: int = 0
    line: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        return cls(**saved)


def is_seekable(name: str) -> bool:
    """Whether an input can be read again from a position."""
    try:
        return stat.S_ISREG((os.fstat(0) if name == STDIN else Path(name).stat()).st_mode)
    except OSError:
        return True  # opening it will report that it does not exist


class Input:
    """An open input. Raises FileError."""

    def __init__(self, name: str, follow: bool) -> None:
        self.name = name
        self._follow = follow
        self._unpacked: gzip.GzipFile | None = None
        try:
            self._fd = os.dup(0) if name == STDIN else os.open(name, os.O_RDONLY | os.O_NONBLOCK)
            mode = os.fstat(self._fd).st_mode
            if stat.S_ISDIR(mode):
                raise FileError(name, "", "is a folder: name its files, in their order")
            self.is_seekable = stat.S_ISREG(mode)
            if name.endswith(".gz"):
                if follow:
                    raise FileError(name, "", "is packed, and stream.follow (--follow) needs plain text")
                self._unpacked = gzip.GzipFile(fileobj=io.FileIO(os.dup(self._fd)))
        except OSError as error:
            raise FileError(self.label, "", f"cannot be read: {error.strerror}") from None
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    @property
    def label(self) -> str:
        """The name for error messages."""
        return "standard input" if self.name == STDIN else self.name

    def seek(self, byte: int) -> None:
        """Continue after `byte` bytes of text. Raises FileError."""
        try:
            if self._unpacked is not None:
                self._unpacked.seek(byte)
            else:
                self._check_size(byte)
                os.lseek(self._fd, byte, os.SEEK_SET)
        except (OSError, EOFError) as error:
            raise FileError(self.label, "", f"cannot be read from byte {byte:,} on: {error}") from None

    def read(self) -> bytes | None:
        """The next block of text; empty at the end, None where nothing has arrived for WAIT_S. Raises FileError."""
        try:
            if self._unpacked is not None:
                return self._unpacked.read1(_BLOCK)
            if not self.is_seekable and not self._is_readable():
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
        if self._unpacked is not None:
            self._unpacked.close()
        os.close(self._fd)

    def _is_readable(self) -> bool:
        """Whether a pipe has data, or all its writers have closed it."""
        return bool(self._poll.poll(WAIT_S * 1000))

    def _check_size(self, byte: int) -> None:
        size = os.fstat(self._fd).st_size
        if size < byte:
            problem = f"has {size:,} bytes, but {byte:,} were read: it has been replaced or cut"
            raise FileError(self.label, "", problem)


class Lines:
    """The lines of all inputs, from position `start` on. `position` is that of the next line that `take` returns."""

    def __init__(self, inputs: Sequence[str], follow: bool, start: Position | None = None) -> None:
        self._inputs = tuple(inputs)
        self._follow = follow
        self.position = start or Position()
        self._lines: deque[bytes] = deque()
        self._rest = b""  # the start of a line whose newline has not arrived
        self._input: Input | None = None
        self.has_ended = False

    def take(self, limit: int) -> list[bytes]:
        """Up to `limit` lines of one input; none where none have arrived, or after the end. Raises FileError."""
        if not self._lines and not self.has_ended:
            self._fill()
        lines = [self._lines.popleft() for _ in range(min(limit, len(self._lines)))]
        position = self.position
        if lines:
            byte = position.byte + sum(map(len, lines))
            self.position = Position(position.input, position.name, byte, position.line + len(lines))
        return lines

    @property
    def label(self) -> str:
        """The name, for error messages, of the input that the next lines are from."""
        return self._input.label if self._input is not None else ""

    def close(self) -> None:
        if self._input is not None:
            self._input.close()
            self._input = None

    def _fill(self) -> None:
        """Read a block of the current input into `_lines`."""
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
                self._next_input()
            return
        *complete, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            line = self.position.line + len(complete) + 1
            raise FileError(self.label, str(line), f"has more than {_MAX_LINE:,} bytes")
        self._lines.extend(line + b"\n" for line in complete)

    def _open(self) -> None:
        """Open the input of `position`, at that position where the input is seekable."""
        position = self.position
        if position.input >= len(self._inputs):
            now = f"input {position.input + 1} was {position.name} before, and there are {len(self._inputs)} now"
            raise FileError(self._inputs[-1], "", f"{now}: give the same inputs, or more")
        name = self._inputs[position.input]
        own_name = Path(name).name if name != STDIN else STDIN
        if position.name and position.name != own_name:
            before = f"input {position.input + 1} was {position.name} before"
            raise FileError(name, "", f"{before}: give the same inputs, or more")
        is_last = position.input + 1 == len(self._inputs)
        self._input = Input(name, follow=self._follow and is_last)
        if position.byte and self._input.is_seekable:
            self._input.seek(position.byte)
        byte, line = (position.byte, position.line) if self._input.is_seekable else (0, 0)
        self.position = Position(position.input, own_name, byte, line)

    def _next_input(self) -> None:
        self.close()
        if self.position.input + 1 == len(self._inputs):
            self.has_ended = True
        else:
            self.position = Position(self.position.input + 1)
