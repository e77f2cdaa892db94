"""Tree messages: what switches that sum and multicast (NVLS, SHARP) carry instead of point-to-point messages.

A tree message has several senders and several receivers. Here are only the members of each message;
`dessim.cluster.tree_routes` finds the links it crosses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.links import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """m tree messages. Message i goes from `up[up_at[i]:up_at[i + 1]]` to `down[down_at[i]:down_at[i + 1]]`.

    `up` and `down` hold the senders and receivers (ranks or GPUs) of all messages one after the other; `up_at` and
    `down_at` [m + 1] say where those of each message begin.
    """

    up: IntArray
    up_at: IntArray
    down: IntArray
    down_at: IntArray

    @classmethod
    def of(cls, up: IntArray, down: IntArray) -> Trees:
        """One message per row, from senders `up` [m, a] to receivers `down` [m, b]."""
        m, a = up.shape
        b = down.shape[1]
        return cls(up.ravel(), np.arange(m + 1) * a, down.ravel(), np.arange(m + 1) * b)

    @classmethod
    def join(cls, *batches: Trees) -> Trees:
        """The messages of all batches, one batch after the other."""
        return cls(
            np.concatenate([trees.up for trees in batches]),
            _offsets([np.diff(trees.up_at) for trees in batches]),
            np.concatenate([trees.down for trees in batches]),
            _offsets([np.diff(trees.down_at) for trees in batches]),
        )

    def __len__(self) -> int:
        return len(self.up_at) - 1

    def members(self, number: int) -> tuple[list[int], list[int]]:
        """Senders and receivers of message `number`."""
        up = self.up[self.up_at[number] : self.up_at[number + 1]]
        down = self.down[self.down_at[number] : self.down_at[number + 1]]
        return up.tolist(), down.tolist()

    def take(self, rows: IntArray) -> Trees:
        """The messages `rows`, in that order."""
        return Trees(*_take(self.up, self.up_at, rows), *_take(self.down, self.down_at, rows))

    def on(self, gpus: IntArray) -> Trees:
        """The same messages with rank r replaced by `gpus[r]`."""
        return Trees(gpus[self.up], self.up_at, gpus[self.down], self.down_at)


def _offsets(lengths: list[IntArray]) -> IntArray:
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)


def _take(values: IntArray, at: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """The members of messages `rows`, and where those of each message begin."""
    length = np.diff(at)[rows]
    offset = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    index = np.arange(offset[-1]) + np.repeat(at[rows] - offset[:-1], length)
    return values[index], offset
