"""Cluster: the machine a job runs on, as GPUs in rank order, links between them, and routes.

Ranks fill the GPUs in order, node after node. The links are arrays; the networkx graph is built from them only when
someone asks for it (drawings, checks, tests), so a cluster of 65,536 GPUs costs megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike

from dessim.cluster.faults import changed
from dessim.cluster.links import IntArray, Links
from dessim.cluster.parts import Gpu, Node, Transport
from dessim.cluster.routing.policy import FlowRequests, Routing
from dessim.cluster.routing.routes import Fabric, Routes, Segment, assemble
from dessim.cluster.wiring import Wiring
from dessim.errors import CapacityError, ClusterError, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A whole machine room. `path` is the file it was read from; `built` are its links as built where some are not of
    the parts that node and fabric say; `gpu` is in servers that name no other."""

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

    @property
    def nodes(self) -> list[Node]:
        """What is in a server, a kind each."""
        return self.wiring.nodes

    @property
    def node(self) -> Node:
        """What is in each server, or where there are several kinds in the first."""
        return self.nodes[0]

    @property
    def n_nodes(self) -> int:
        """Servers of the whole cluster."""
        return self.wiring.n_nodes

    @property
    def n_gpus(self) -> int:
        """GPUs of the whole cluster."""
        return self.wiring.n_gpus

    @property
    def kind(self) -> str:
        """One of `dessim.cluster.spec.topology_file.FABRIC_KINDS`."""
        return self.fabric.kind

    def node_of(self, gpus: ArrayLike) -> IntArray:
        """The server of each GPU."""
        return self.wiring.node_of(np.asarray(gpus, dtype=np.int64))

    def devices(self, gpus: ArrayLike) -> list[tuple[Gpu, IntArray]]:
        """The kinds of GPU among `gpus`, in the order of servers, each with the positions of those."""
        found: dict[Gpu, list[IntArray]] = {}
        for kind, rows in self.wiring.by_kind(np.asarray(gpus, dtype=np.int64)):
            found.setdefault(kind.node.gpu or self.gpu, []).append(rows)
        return [(gpu, np.sort(np.concatenate(rows))) for gpu, rows in found.items()]

    def device(self, gpus: ArrayLike, what: str) -> Gpu:
        """The kind of GPU that all of `gpus` are. Raises UsageError where they differ: `what` takes one kind."""
        found = self.devices(gpus)
        if len(found) > 1:
            names = ", ".join(gpu.name for gpu, _ in found)
            raise UsageError(
                f"{what} takes GPUs of one kind, {self.path} has {names}; use fewer, or a cluster of one kind"
            )
        return found[0][0]

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
        without_twins: bool = False,
        size: ArrayLike | None = None,
        refuse: bool = True,
    ) -> Routes:
        """The routes of n flows from GPU `src` to GPU `dst` [n], src != dst; array arithmetic, no loop over flows.

        `without_twins` names one link for each set of links that always carry the same load (`Routes.copies`). `size`
        [n] in bytes, all equal unless given, is what adaptive routing goes by. Where all ways are down: raises
        ClusterError, or unless `refuse` gives one of them.
        """
        tails, heads = np.atleast_1d(np.asarray(src, dtype=np.int64)), np.atleast_1d(np.asarray(dst, dtype=np.int64))
        if tails.shape != heads.shape or tails.ndim != 1:
            raise ValueError(f"src and dst must be vectors of one length, not {tails.shape} and {heads.shape}")
        if len(tails):
            if min(tails.min(), heads.min()) < 0 or max(tails.max(), heads.max()) >= self.n_gpus:
                raise ValueError(f"a GPU index is outside 0..{self.n_gpus - 1}")
            if np.any(tails == heads):
                raise ValueError("a flow from a GPU to itself has no route")
        bytes_of = np.ones(len(tails)) if size is None else np.asarray(size, dtype=np.float64)
        pair = tails * self.n_gpus + heads

        def across(rows: IntArray, nic_src: IntArray, nic_dst: IntArray) -> list[Segment]:
            return self.across(FlowRequests(nic_src, nic_dst, bytes_of[rows], pair[rows]))

        segments = self.wiring.segments(tails, heads, across, self.fabric.rail_aware)
        routes = assemble(len(tails), segments, self.links, without_twins)
        if refuse:
            self.refuse_down(routes, tails, heads)
        return routes

    def across(self, traffic: FlowRequests, routing: Routing | None = None) -> list[Segment]:
        """The way through the fabric, from NIC to NIC, as the cluster's routing has it or another."""
        faulty = self.links.faulty and bool((self.links.capacity[: self.wiring.first] == 0).any())
        return (routing or self.routing).segments(self.fabric, self.links, traffic, faulty)

    def refuse_down(self, routes: Routes, src: IntArray, dst: IntArray) -> None:
        """Raise ClusterError if a flow from GPU `src` to GPU `dst` [n] uses a link that is down."""
        if not self.links.faulty:
            return
        down = np.flatnonzero(self.links.capacity[routes.link] == 0)
        if len(down):
            flow, link = int(routes.flow[down[0]]), self.links.name(int(routes.link[down[0]]))
            pair = f"gpu{src[flow]} cannot reach gpu{dst[flow]}"
            raise ClusterError(self.path, "", f"{pair}: {link} is down, and no way is left around it")

    def with_links(self, changes: Iterable[tuple[str | ArrayLike, float]]) -> Cluster:
        """The cluster with links that are slower, or down: `(which, share)` leaves them `share` of their capacity.

        `which` are link ids or a name (`dessim.cluster.faults.find_links`), `share` is 0 (down) to 1; of several
        changes of a link the last counts. Traffic takes the ways that are left; what describes the cluster as built
        (bisection, oversubscription) stays. Raises ClusterError.
        """
        return replace(self, links=changed(self.links, changes, self.path))

    def graph(self) -> nx.DiGraph[str]:
        """Vertices `gpu0`, `node0/nvswitch`, `leaf3`, ...; edges with `capacity`, `latency`, `kind`, `link`."""
        links = self.links
        graph: nx.DiGraph[str] = nx.DiGraph()
        names: list[str] = []
        for layer in links.layers:
            for index in range(layer.count):
                names.append(layer.name(index))
                graph.add_node(names[-1], kind=layer.kind)
        columns = zip(
            links.src.tolist(),
            links.dst.tolist(),
            links.capacity.tolist(),
            links.latency.tolist(),
            links.kind.tolist(),
            strict=True,
        )
        graph.add_edges_from(
            (names[a], names[b], {"capacity": c, "latency": t, "kind": links.kinds[k], "link": i})
            for i, (a, b, c, t, k) in enumerate(columns)
        )
        return graph
