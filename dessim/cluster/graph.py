"""Cluster: the machine a job runs on, as GPUs in rank order, links between them, and routes.

Ranks fill the GPUs in order, node after node. Links are arrays; the networkx graph is built from them only on request
(drawings, checks, tests), so that a cluster of 65,536 GPUs takes megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dessim.cluster.faults import with_changed_capacity
from dessim.cluster.links import IntArray, Links
from dessim.cluster.parts import Gpu, Node, Transport
from dessim.cluster.routing.policy import FlowRequests, Routing
from dessim.cluster.routing.routes import Fabric, RouteProvider, Routes, Segment, assemble
from dessim.cluster.wiring import Wiring
from dessim.errors import CapacityError, ClusterError, UsageError

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A complete cluster.

    `path` is the topology file it was read from. `gpu` is the GPU of all servers that do not name another. `links` are
    the links as they are now, maybe slower or down. `built` is set where the file overrides some links with other
    parts, and holds all links as built. `route_provider` replaces the routes that fabric and routing policy give.
    """

    name: str
    description: str
    path: Path
    gpu: Gpu
    transport: Transport
    fabric: Fabric
    routing: Routing
    wiring: Wiring
    links: Links
    built: Links | None = None
    route_provider: RouteProvider | None = None

    @property
    def nodes(self) -> list[Node]:
        """The description of each kind of server."""
        return self.wiring.nodes

    @property
    def node(self) -> Node:
        """The description of the servers, of the first kind where there are several."""
        return self.nodes[0]

    @property
    def n_nodes(self) -> int:
        """Number of servers in the cluster."""
        return self.wiring.n_nodes

    @property
    def n_gpus(self) -> int:
        """Number of GPUs in the cluster."""
        return self.wiring.n_gpus

    @property
    def kind(self) -> str:
        """The kind of fabric, one of `dessim.cluster.spec.topology_file.FABRIC_KINDS`."""
        return self.fabric.kind

    def node_of(self, gpus: ArrayLike) -> IntArray:
        """Return the server of each GPU."""
        return self.wiring.node_of(np.asarray(gpus, dtype=np.int64))

    def switch_of_nic(self) -> IntArray:
        """Return the switch (vertex id) to which each NIC is attached, [n_nics]."""
        return self.links.dst[self.wiring.nic_up + np.arange(len(self.wiring.node_of_nic()))]

    def devices(self, gpus: ArrayLike) -> list[tuple[Gpu, IntArray]]:
        """Return the kinds of GPU among `gpus`, in the order of servers, each with the positions of its GPUs."""
        positions: dict[Gpu, list[IntArray]] = {}
        for kind, rows in self.wiring.by_kind(np.asarray(gpus, dtype=np.int64)):
            positions.setdefault(kind.node.gpu or self.gpu, []).append(rows)
        return [(gpu, np.sort(np.concatenate(rows))) for gpu, rows in positions.items()]

    def device(self, gpus: ArrayLike, what: str) -> Gpu:
        """Return the one kind of GPU that all `gpus` have.

        Raises UsageError where there are several; `what` names the feature that supports only one.
        """
        devices = self.devices(gpus)
        if len(devices) > 1:
            names = ", ".join(gpu.name for gpu, _ in devices)
            raise UsageError(
                f"{what} takes GPUs of one kind, {self.path} has {names}; use fewer, or a cluster of one kind"
            )
        return devices[0][0]

    def with_gpu(self, gpu: Gpu) -> Cluster:
        """The same cluster with this GPU in every server."""
        return replace(self, gpu=gpu, wiring=self.wiring.with_nodes(lambda node: replace(node, gpu=None)))

    def require(self, n_gpus: int) -> None:
        """Raise CapacityError unless the cluster has `n_gpus` GPUs; a job uses the first ones, in rank order."""
        if n_gpus < 1:
            raise CapacityError(f"--gpus {n_gpus}: at least one GPU is needed")
        if n_gpus > self.n_gpus:
            raise CapacityError(
                f"cluster {self.name} has {self.n_gpus} GPUs, too few for {n_gpus} ranks; "
                f"ask for fewer, or raise node.count in {self.path}"
            )

    def routes(
        self,
        src: ArrayLike,
        dst: ArrayLike,
        *,
        without_twins: bool = False,
        size: ArrayLike | None = None,
        refuse: bool = True,
    ) -> Routes:
        """Return the routes of n flows from GPU `src` to GPU `dst` [n], src != dst, without a loop over flows.

        `without_twins` returns one link for each set of links that always carry the same load (`Routes.copies`). `size`
        [n] in bytes, equal for all unless given, is an input to adaptive routing. A flow whose routes are all down
        raises ClusterError, or with `refuse=False` gets one of them.
        """
        tails = np.atleast_1d(np.asarray(src, dtype=np.int64))
        heads = np.atleast_1d(np.asarray(dst, dtype=np.int64))
        self._check_ends(tails, heads)
        sizes = np.ones(len(tails)) if size is None else np.asarray(size, dtype=np.float64)
        if self.route_provider is not None:
            routes = self.route_provider.routes(tails, heads, without_twins=without_twins, size=sizes)
        else:
            pair = tails * self.n_gpus + heads

            def across(rows: IntArray, nic_src: IntArray, nic_dst: IntArray) -> list[Segment]:
                return self.across(FlowRequests(nic_src, nic_dst, sizes[rows], pair[rows]))

            segments = self.wiring.segments(tails, heads, across, self.fabric.rail_aware)
            routes = assemble(len(tails), segments, self.links, without_twins)
        if refuse:
            self.refuse_down(routes, tails, heads)
        return routes

    def _check_ends(self, tails: IntArray, heads: IntArray) -> None:
        """Raise ValueError unless these are the ends of flows between different GPUs."""
        if tails.shape != heads.shape or tails.ndim != 1:
            raise ValueError(f"src and dst must be vectors of one length, not {tails.shape} and {heads.shape}")
        if len(tails):
            if min(tails.min(), heads.min()) < 0 or max(tails.max(), heads.max()) >= self.n_gpus:
                raise ValueError(f"a GPU index is outside 0..{self.n_gpus - 1}")
            if np.any(tails == heads):
                raise ValueError("a flow from a GPU to itself has no route")

    def across(self, requests: FlowRequests, routing: Routing | None = None) -> list[Segment]:
        """Route flows through the fabric, from NIC to NIC, by the cluster's routing policy or by `routing`."""
        capacity = self.links.capacity
        faulty = self.links.any_down and bool((capacity[: self.wiring.first_server_link] == 0).any())
        return (routing or self.routing).segments(self.fabric, self.links, requests, faulty)

    def refuse_down(self, routes: Routes, src: IntArray, dst: IntArray) -> None:
        """Raise ClusterError if a flow from GPU `src` to GPU `dst` [n] uses a link that is down."""
        if not self.links.any_down:
            return
        down = np.flatnonzero(self.links.capacity[routes.link] == 0)
        if len(down):
            flow = int(routes.flow[down[0]])
            link = self.links.name(int(routes.link[down[0]]))
            pair = f"gpu{src[flow]} cannot reach gpu{dst[flow]}"
            raise ClusterError(self.path, "", f"{pair}: {link} is down, and no route avoids it")

    def with_links(self, changes: Iterable[tuple[str | ArrayLike, float]]) -> Cluster:
        """Return the cluster with some links slower or down.

        Each change `(which, share)` leaves links `share` of their capacity, from 0 (down) to 1 (as built). `which` is a
        name (`dessim.cluster.faults.find_links`) or an array of link ids. Where several changes affect a link, the last
        one counts. Traffic uses the remaining routes. Facts about the cluster as built (bisection, oversubscription) do
        not change. Raises ClusterError.
        """
        return replace(self, links=with_changed_capacity(self.links, changes, self.path))

    def graph(self) -> nx.DiGraph[str]:
        """Return the graph of vertices `gpu0`, `node0/nvswitch`, `leaf3`, ...

        Vertices have the attribute `kind`; edges have `capacity` (bytes/s), `latency` (s), `kind`, and `link` (its id).
        """
        import networkx as nx  # here, because most commands do not need it

        links = self.links
        graph: nx.DiGraph[str] = nx.DiGraph()
        names: list[str] = []
        for layer in links.layers:
            for index in range(layer.count):
                names.append(layer.name(index))
                graph.add_node(names[-1], kind=layer.kind)
        ends = zip(links.src.tolist(), links.dst.tolist(), strict=True)
        quantities = zip(links.capacity.tolist(), links.latency.tolist(), links.kind.tolist(), strict=True)
        for link, ((src, dst), (capacity, latency, kind)) in enumerate(zip(ends, quantities, strict=True)):
            graph.add_edge(
                names[src], names[dst], capacity=capacity, latency=latency, kind=links.kinds[kind], link=link
            )
        return graph
