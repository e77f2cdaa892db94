"""Fan-in: a receiver's last link carries less when several flows arrive over it at once.

TCP flows that meet at one port overrun its queue, lose packets and wait for timeouts (incast: Phanishayee et al.,
"Measurement and Analysis of TCP Throughput Collapse in Cluster-based Storage Systems", FAST 2008). Seen from above the
link has capacity C * e(k) while k flows drain through it. Left out: how senders recover, and that a flow which another
link holds back hurts less: it counts like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class FanIn:
    """A curve, and where it holds. `receives` [n_links]: the last links of receivers.

    `flows` and `efficiency` [points]: how many flows get which share of a link together; linear in between, constant
    beyond.
    """

    receives: npt.NDArray[np.bool_]
    flows: npt.NDArray[np.float64]
    efficiency: npt.NDArray[np.float64]

    @classmethod
    def of(cls, receives: npt.NDArray[np.bool_], curve: Sequence[tuple[float, float]]) -> FanIn:
        """The `curve` of a `dessim.cluster.parts.Transport`."""
        flows, efficiency = np.array(curve, dtype=np.float64).T
        return cls(receives, flows, efficiency)

    def share(self, load: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Of each link's capacity [n_links], what is left. `load` is the sum of the weights of the flows on it.

        It counts them: whatever is split on the way is joined again here, so each weighs 1. In a folded network a
        colour weighs as much as it has flows on the link.
        """
        return np.where(self.receives, np.interp(load, self.flows, self.efficiency), 1.0)

    def at(self, links: npt.NDArray[np.int64]) -> FanIn:
        """The same on some of the links, in this order."""
        return replace(self, receives=self.receives[links])
