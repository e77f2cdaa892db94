"""Fan-in: the last link to a receiver carries less when several flows share it.

TCP flows to one receiver overrun the queue of its switch port, lose packets and wait for timeouts (incast: Phanishayee
et al., "Measurement and Analysis of TCP Throughput Collapse in Cluster-based Storage Systems", FAST 2008). The model
is a link of capacity C * e(k) while k flows drain through it. It leaves out how senders recover, and it counts a flow
that another link holds back like any other, although such a flow does less harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dessim.arrays import Bools, Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class FanIn:
    """An efficiency curve and the links it applies to: `receives` [n_links], the last links to receivers.

    `flows` and `efficiency` [points] say which share of its capacity a link keeps for a number of flows; linear in
    between, constant outside.
    """

    receives: Bools
    flows: Floats
    efficiency: Floats

    @classmethod
    def of(cls, receives: Bools, curve: Sequence[tuple[float, float]]) -> FanIn:
        """The `curve` of a `dessim.cluster.parts.Transport`."""
        flows, efficiency = np.array(curve, dtype=np.float64).T
        return cls(receives, flows, efficiency)

    def share(self, load: Floats) -> Floats:
        """The share of its capacity that each link keeps [n_links]. `load` is the sum of the weights of its flows.

        That sum is the number of flows: the shares of a flow that was split join again on the last link, so its weight
        is 1. In a folded network the weight of a colour is the number of its flows on the link.
        """
        return np.where(self.receives, np.interp(load, self.flows, self.efficiency), 1.0)

    def at(self, links: Ints) -> FanIn:
        """The same curve for a selection of the links, in the order of `links`."""
        return replace(self, receives=self.receives[links])
