"""Batches that share links, folded together. Large joint folds are kept.

How messages of several batches fold depends on their routes and on which of them have equally many bytes left, not on
how many bytes those are. The steps of a job run the same collectives beside each other again and again, so large joint
folds are computed once (`JointFolds`): an all_to_all of 1,024 ranks has a million messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dessim.arrays import Bools, Floats
from dessim.cluster import Cluster
from dessim.sim.fluid.fold import Fold, fold, number, number_rows
from dessim.sim.fluid.incidence import Crossings, with_transport_limits, without_blocked

_MIN_KEPT = 2**14  # messages; smaller joint folds are cheaper to redo than to look up


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """Folded batches. `blocked` [n_messages] have no route; `carried_per_byte` [n_colours, link classes] are the bytes
    on each link class per byte left of a colour, for all its flows together."""

    fold: Fold
    blocked: Bools
    carried_per_byte: Floats


@dataclass(slots=True, eq=False)
class JointFolds:
    """The joint folds of routed stages, by the numbers of the stages and the classes of identical messages."""

    _known: dict[tuple[object, ...], Joint] = field(default_factory=dict)
    _stages: int = 0

    def add_stage(self) -> int:
        """A number for a routed stage."""
        self._stages += 1
        return self._stages

    def joint(
        self, stages: Sequence[int], size: Floats, after: Floats, batch: Floats, fold_anew: Callable[[], Joint]
    ) -> Joint:
        """The joint fold of batches of `stages`, computed by `fold_anew` the first time.

        The messages have `size` bytes left, then need `after` seconds, and belong to `batch` (all [n_messages]).
        """
        dense, first = number(number_rows(size, after, batch))
        digest = hashlib.blake2b(dense.astype(np.min_scalar_type(len(first))).tobytes()).digest()
        key = (*stages, digest, (size[first] > 0).tobytes())
        if key not in self._known:
            joint = fold_anew()
            self._known[key] = replace(joint, fold=joint.fold.compact())
        known = self._known[key]
        return replace(known, fold=known.fold.expanded())


def join(
    cluster: Cluster, crossings: Sequence[Crossings], size: Floats, after: Floats, batch: Floats, folding: bool
) -> Joint:
    """Fold messages of several batches. They have `size` bytes left, then need `after` seconds, and belong to `batch`.

    `crossings` are those of each batch. Arrays are [n_messages], one batch after the other.
    """
    starts = np.cumsum([0, *(crossing.net.n_flows for crossing in crossings)]).tolist()
    flow = np.concatenate([crossing.net.flow + at for crossing, at in zip(crossings, starts, strict=False)])
    link = np.concatenate([crossing.net.link for crossing in crossings])
    weight = np.concatenate([crossing.net.weight for crossing in crossings])
    copies = np.concatenate([crossing.copies for crossing in crossings])
    # Messages that have drained load no link any more.
    loads = size[flow] > 0
    net = with_transport_limits(cluster, len(size), flow[loads], link[loads], weight[loads])
    net, blocked = without_blocked(net)
    folded = fold(net, number_rows(np.where(blocked, 0.0, size), after, batch), folding)
    kinds = len(cluster.links.kinds)
    entry = folded.colour[flow] * kinds + cluster.links.kind[link]
    carried = np.bincount(entry, weight * copies, minlength=len(folded.flow_of) * kinds)
    return Joint(folded, blocked, carried.astype(np.float64).reshape(len(folded.flow_of), kinds))


def is_large(messages: int) -> bool:
    """Whether a joint fold of this many messages is kept."""
    return messages >= _MIN_KEPT
