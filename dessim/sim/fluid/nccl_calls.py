"""Collectives as NCCL runs them (dessim.collectives.nccl), on the links of a cluster.

The model of NCCL says how long a collective takes on an idle network whose links reach the rates of their parts, and
which bytes each link carries. The fabric then carries these bytes, beside those of other collectives. The collective
takes the time of the model, and longer by the time that the fabric needed beyond that of the busiest port.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.cluster import Cluster
from dessim.cluster.tree_routes import sums_in_fabric
from dessim.collectives.nccl import flows
from dessim.collectives.nccl.flows import Servers
from dessim.collectives.nccl.model import ALGORITHMS, Override
from dessim.collectives.nccl.on_cluster import curve_on, setup_of, values_on
from dessim.collectives.nccl.setup import Setup
from dessim.collectives.nccl.steady import SteadyRuns
from dessim.collectives.schedule import Options, Stage
from dessim.trace.schema import Collective

_MESSAGES = "p2p"
_ONLY_NCCL = frozenset(ALGORITHMS) - {"ring", "nvls"}
"""Names that no textbook algorithm has."""


@dataclass(frozen=True, slots=True)
class Call:
    """A collective of NCCL: its name, the `seconds` that it takes at least, and the seconds for which its busiest port
    is `busy`.

    `stage` has its messages; None for point-to-point messages, whose stages come from a textbook algorithm.
    """

    name: str
    seconds: float
    busy: float
    stage: Stage | None

    def end(self, transferring: float) -> float:
        """Seconds from start to end if the fabric took `transferring` seconds, without latency, for the bytes."""
        return max(self.seconds, self.seconds - self.busy + transferring)


@dataclass(frozen=True, slots=True)
class NcclGroup:
    """A group of GPUs as NCCL finds it: its set-up, the constants of the model, its servers, and the bytes/s of its
    slowest NIC. `runs` keeps the model's times per op and algorithm, which are expensive."""

    setup: Setup
    values: Mapping[str, float]
    servers: Servers
    nic: float
    runs: dict[tuple[Collective, str], SteadyRuns] = field(default_factory=dict)


class NcclCalls:
    """The collectives of NCCL over the groups of a job; `gpus` are those of each group.

    `known` has the groups of earlier jobs on the same cluster, by GPUs and options. New groups are added to it.
    """

    def __init__(
        self,
        cluster: Cluster,
        gpus: Mapping[str, Ints],
        options: Options,
        known: dict[tuple[bytes, Options], NcclGroup],
    ) -> None:
        self._cluster = cluster
        self._gpus = gpus
        self._options = options
        self._known = known
        self._groups: dict[str, NcclGroup] = {}
        self._calls: dict[tuple[object, ...], Call] = {}

    def runs(self, algorithm: str) -> bool:
        """Whether NCCL's model runs a collective with this `algorithm`: "auto", or a choice that only NCCL has."""
        if self._cluster.transport.nccl is None:
            return False
        overridden = bool(self._options.protocol) or self._options.channels is not None
        return algorithm == "auto" or algorithm in _ONLY_NCCL or (overridden and algorithm in ALGORITHMS)

    def call(self, op: Collective, algorithm: str, group: str, size: float, sizes: Floats | None = None) -> Call:
        """`op` on S = `size` bytes, or on `sizes` [n, n] bytes from each rank to each other. Raises UsageError."""
        if sizes is not None:
            size = float(max(sizes.sum(axis=0).max(), sizes.sum(axis=1).max())) * len(sizes) / (len(sizes) - 1)
        key = (op, algorithm, group, size)
        if key not in self._calls:
            self._calls[key] = self._call(op, algorithm, group, size)
        return self._calls[key]

    def all_pairs(self, group: str, size: float) -> Stage | None:
        """The messages of an even all_to_all on S = `size` bytes with PXN; None where PXN does not apply."""
        cluster = self._cluster
        gpus = self._gpus[group]
        servers = self._group(group).servers
        nodes = [kind.node for kind, _ in cluster.wiring.by_kind(gpus)]
        if not cluster.fabric.rail_aware or len(nodes) > 1:
            return None
        if nodes[0].nvlink is None or nodes[0].nics != nodes[0].gpus or nodes[0].trays > 1:
            return None
        rail = cluster.wiring.nic_of(gpus) % nodes[0].nics
        # A rail joins GPUs at the same place in the group's list of each server.
        first = rail[servers.members[0]]
        if not all(np.array_equal(rail[members], first) for members in servers.members):
            return None
        return flows.along_rails(size, servers)

    def _call(self, op: Collective, algorithm: str, group: str, size: float) -> Call:
        of_group = self._group(group)
        setup = of_group.setup
        nic = of_group.nic
        run = self._runs(op, algorithm, of_group).run(size)
        if run.algorithm == _MESSAGES:
            return Call(run.name, run.microseconds * 1e-6, _busy_with_messages(op, size, setup, nic), None)
        edges = flows.collective_edges(
            op, run.algorithm, size, wire=run.protocol.wire, setup=setup, servers=of_group.servers, nic=nic
        )
        return Call(run.name, run.microseconds * 1e-6, edges.seconds, edges.stage)

    def _runs(self, op: Collective, algorithm: str, group: NcclGroup) -> SteadyRuns:
        key = (op, algorithm)
        if key not in group.runs:
            name = "" if algorithm == "auto" else algorithm
            override = Override(name, self._options.protocol, self._options.channels)
            # SHARP is off unless it is asked for by name.
            sharp = sums_in_fabric(self._cluster)
            asked = replace(group.setup, sharp=sharp) if name == "collnet" else group.setup
            # A calibration measures what NCCL chooses.
            curve = curve_on(self._cluster, op, group.setup) if override == Override() else None
            group.runs[key] = SteadyRuns(
                op, asked, group.values, override=override, timing=self._options.timing, curve=curve
            )
        return group.runs[key]

    def _group(self, name: str) -> NcclGroup:
        if name not in self._groups:
            key = (self._gpus[name].tobytes(), self._options)
            if key not in self._known:
                self._known[key] = self._new_group(self._gpus[name])
            self._groups[name] = self._known[key]
        return self._groups[name]

    def _new_group(self, gpus: Ints) -> NcclGroup:
        setup = setup_of(self._cluster, gpus)
        setup = replace(setup, gpus_per_process=min(self._options.gpus_per_process, setup.per_node))
        nic = min(kind.nic_capacity() for kind, _ in self._cluster.wiring.by_kind(gpus))
        return NcclGroup(setup, values_on(self._cluster, setup), Servers.of(self._cluster.node_of(gpus)), nic)


def _busy_with_messages(op: Collective, size: float, setup: Setup, nic: float) -> float:
    """Seconds of the busiest port for messages between pairs of ranks."""
    if op is Collective.SEND_RECV:
        return flows.busy_seconds(size if setup.nodes == 1 else 0.0, size * setup.nics, setup, nic)
    per_peer = size / setup.n
    across = per_peer * (setup.n - setup.per_node) * setup.per_node
    return flows.busy_seconds(per_peer * (setup.per_node - 1), across, setup, nic)
