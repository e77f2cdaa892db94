"""Messages that start together: the input of routing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dessim.arrays import Bools, Floats, Ints
from dessim.cluster.routing.trees import Trees


@dataclass(frozen=True, slots=True, eq=False)
class Messages:
    """Message i takes `size[i]` bytes from GPU `src[i]` to GPU `dst[i]`. All arrays are [n_messages].

    With `trees`, message i travels through summing switches instead; `src[i]` and `dst[i]` are then one of its senders
    and one of its receivers. Receivers sum messages where `reduce` says so (one flag for all, or one per message).
    `in_flight`, `continues`, `after` and `begins` are those of `dessim.collectives.schedule.Stage`: how many parts of a
    message are in flight at the same time, whether they cost no overhead, the message that each message waits for (-1:
    none), and after how many seconds each begins.
    """

    src: Ints
    dst: Ints
    size: Floats
    reduce: bool | Bools = False
    trees: Trees | None = None
    in_flight: int = 1
    continues: bool = False
    after: Ints | None = None
    begins: Floats | None = None

    def __len__(self) -> int:
        return len(self.size)

    def nonempty(self) -> Messages:
        """The messages of more than 0 bytes. A message that waited for an empty one waits for none."""
        sent = self.size > 0
        if sent.all():
            return replace(self, size=self.size.astype(np.float64))
        after = self.after
        if after is not None:
            # The number of each message among those that are sent. An `after` of -1 finds the appended -1.
            number = np.append(np.where(sent, np.cumsum(sent) - 1, -1), -1)
            after = number[after][sent]
        return replace(
            self,
            src=self.src[sent],
            dst=self.dst[sent],
            size=self.size[sent].astype(np.float64),
            reduce=self.reduce if isinstance(self.reduce, bool) else self.reduce[sent],
            trees=None if self.trees is None else self.trees.take(np.flatnonzero(sent)),
            after=after,
            begins=None if self.begins is None else self.begins[sent],
        )

    def reducing(self) -> Bools:
        """Which messages the receiver sums [n_messages]."""
        return np.full(len(self), self.reduce) if isinstance(self.reduce, bool) else self.reduce


def no_messages(in_flight: int) -> Messages:
    """No messages, for a cache that keeps `in_flight` but is given the messages again later."""
    none = np.zeros(0, dtype=np.int64)
    return Messages(none, none, np.zeros(0), in_flight=in_flight)
