"""Three tiers: leaves with the NICs, spines that join the leaves of a pod, and cores that join the pods.

This is the k-ary fat tree of Al-Fares, Loukissas and Vahdat (SIGCOMM 2008) with every count free. Spine s of each pod
is joined to the cores of plane s only, so a message between pods stays on the plane on which it went up. With k-port
switches, k/2 hosts per leaf, k/2 leaves and spines per pod, k/2 cores per plane and k pods make k**3 / 4 hosts without
oversubscription. All NICs of a node are on one leaf. Parallel cables count as one link of their summed capacity. Left
out: pods of different design, and cores that several planes share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import fullest, halves, port_on, port_sentences
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import Pick, Segment, consecutive, single_route


@dataclass(frozen=True, slots=True)
class Tree:
    """The three tiers as the topology file describes them: `spines` per pod, `cores` per spine (that is, per plane)."""

    leaves_per_pod: int
    spines: int
    cores: int
    links_per_spine: int
    links_per_core: int
    uplink: Link
    core_uplink: Link
    switch: Switch | None

    @property
    def leaf_uplinks(self) -> float:
        """Payload bytes/s from a leaf to all spines of its pod."""
        return self.uplink.capacity * self.links_per_spine * self.spines

    @property
    def pod_uplinks(self) -> float:
        """Payload bytes/s from a pod to all cores."""
        return self.core_uplink.capacity * self.links_per_core * self.cores * self.spines


@dataclass(frozen=True, slots=True, eq=False)
class FatTree:
    """NIC i is on leaf `home[i]`, leaf l in pod `l // leaves_per_pod`.

    Link `leaf_up + l * spines + s` goes from leaf l to spine s of its pod, and link
    `spine_up + (p * spines + s) * cores + c` from spine s of pod p to core c of plane s. The opposite links are at the
    same offsets from `leaf_down` and `spine_down`. NIC i has place `port[i]` among those on its leaf and `in_pod[i]`
    among those in its pod [n_nics].
    """

    tree: Tree
    home: IntArray
    port: IntArray
    in_pod: IntArray
    leaf_up: int
    leaf_down: int
    spine_up: int
    spine_down: int
    kind: str = "fat_tree"
    rail_aware: bool = False

    @property
    def switch(self) -> Switch | None:
        return self.tree.switch

    @property
    def leaves(self) -> int:
        return int(self.home[-1]) + 1

    @property
    def pods(self) -> int:
        return -(-self.leaves // self.tree.leaves_per_pod)

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Up to a spine and down again inside a pod; up to a core and down again between pods.

        Between pods, alternative j is spine `j // cores` with its core `j % cores`.
        """
        tree = self.tree
        a = self.home[src]
        b = self.home[dst]
        pod_a = a // tree.leaves_per_pod
        pod_b = b // tree.leaves_per_pod
        near = np.flatnonzero((a != b) & (pod_a == pod_b))
        far = np.flatnonzero(pod_a != pod_b)
        up = self.leaf_up + a * tree.spines
        down = self.leaf_down + b * tree.spines
        # D-mod-k uses a digit of the destination for each tier, so that no two flows of a shift share a link.
        static_spine = self.port[dst] % tree.spines
        static_core = static_spine * tree.cores + self.in_pod[dst] // tree.spines % tree.cores
        spine = pick(near, tree.spines, static_spine[near])
        core = pick(far, tree.spines * tree.cores, static_core[far])
        return [
            *self._inside_pods(near, up[near], down[near], spine),
            *self._between_pods(far, up[far], down[far], pod_a[far], pod_b[far], core),
        ]

    def _inside_pods(self, rows: IntArray, up: IntArray, down: IntArray, spine: IntArray | None) -> list[Segment]:
        """Through `spine` [m], or split over all; `up` and `down` [m] are the links to and from spine 0."""
        if spine is not None:
            return [single_route(rows, up + spine, down + spine)]
        # Split flows load all uplinks of a leaf equally, and all its downlinks.
        return [Segment(rows, np.stack([up, down], axis=1), consecutive(self.tree.spines, hops=2), twins=True)]

    def _between_pods(
        self, rows: IntArray, up: IntArray, down: IntArray, pod_a: IntArray, pod_b: IntArray, core: IntArray | None
    ) -> list[Segment]:
        """Through `core` [m], or split over all; `up` and `down` [m] are the links to and from spine 0."""
        tree = self.tree
        n_cores = tree.spines * tree.cores
        core_up = self.spine_up + pod_a * n_cores
        core_down = self.spine_down + pod_b * n_cores
        if core is not None:
            spine = core // tree.cores
            return [single_route(rows, up + spine, core_up + core, core_down + core, down + spine)]
        # Split flows load all uplinks of a leaf equally and all links from a pod to the cores, and the same downwards.
        every_spine = consecutive(tree.spines, hops=1)
        every_core = consecutive(n_cores, hops=2)
        return [
            Segment(rows, up[:, None], every_spine, twins=True),
            Segment(rows, np.stack([core_up, core_down], axis=1), every_core, twins=True),
            Segment(rows, down[:, None], every_spine, twins=True),
        ]

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """Closed form of the maximum flow from one half to the other, tier by tier.

        Traffic first goes through the lowest switch that both halves share, which uses no uplink above it. The rest of
        a leaf goes up as far as its uplinks carry it, and is balanced against the other leaves of the pod, and so on.
        """
        supply, demand = halves(self.home, first_half, nic_capacity, self.leaves)
        at_leaves = np.minimum(supply, demand)
        pod = np.arange(self.leaves) // self.tree.leaves_per_pod
        rising = np.bincount(pod, np.minimum(supply - at_leaves, self.tree.leaf_uplinks))
        falling = np.bincount(pod, np.minimum(demand - at_leaves, self.tree.leaf_uplinks))
        at_spines = np.minimum(rising, falling)
        upward = np.minimum(rising - at_spines, self.tree.pod_uplinks).sum()
        downward = np.minimum(falling - at_spines, self.tree.pod_uplinks).sum()
        return float(at_leaves.sum() + at_spines.sum() + min(upward, downward))

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Rate of the NICs over rate of the uplinks, of the fullest leaf or the fullest pod, whichever is worse."""
        leaf_nics = fullest(self.home, nic_capacity)
        pod_nics = fullest(self.home // self.tree.leaves_per_pod, nic_capacity)
        ratio = leaf_nics / self.tree.leaf_uplinks if self.leaves > 1 else 1.0
        return max(ratio, pod_nics / self.tree.pod_uplinks) if self.pods > 1 else ratio

    def port_problems(self) -> list[str]:
        """Each switch needs a port for each NIC and each cable."""
        tree = self.tree
        needs = {
            "leaf": int(self.port.max()) + 1 + tree.spines * tree.links_per_spine,
            "spine": min(self.leaves, tree.leaves_per_pod) * tree.links_per_spine + tree.cores * tree.links_per_core,
            "core": self.pods * tree.links_per_core,
        }
        return port_sentences(self.switch, needs)


def build(builder: LinkBuilder, home: IntArray, tree: Tree) -> tuple[FatTree, IntArray]:
    """Add switches and links; return the fabric, and the vertex of each NIC, which is that of leaf `home` [n_nics]."""
    leaves = int(home[-1]) + 1
    pods = -(-leaves // tree.leaves_per_pod)
    first_leaf = builder.add_layer("leaf", leaves)
    first_spine = builder.add_layer("spine", pods * tree.spines)
    first_core = builder.add_layer("core", tree.spines * tree.cores)
    leaf, spine = np.divmod(np.arange(leaves * tree.spines), tree.spines)
    leaf_vertex = first_leaf + leaf
    spine_of_leaf = first_spine + leaf // tree.leaves_per_pod * tree.spines + spine
    pod, core = np.divmod(np.arange(pods * tree.spines * tree.cores), tree.spines * tree.cores)
    spine_of_core = first_spine + pod * tree.spines + core // tree.cores
    core_vertex = first_core + core
    extra = tree.switch.latency if tree.switch else 0.0

    def add(kind: str, link: Link, src: IntArray, dst: IntArray, bundle: int) -> int:
        return builder.add_links(kind, link, src, dst, extra_latency=extra, bundle=bundle)

    fabric = FatTree(
        tree,
        home,
        port=port_on(home),
        in_pod=port_on(home // tree.leaves_per_pod),
        leaf_up=add("leaf_up", tree.uplink, leaf_vertex, spine_of_leaf, tree.links_per_spine),
        leaf_down=add("leaf_down", tree.uplink, spine_of_leaf, leaf_vertex, tree.links_per_spine),
        spine_up=add("spine_up", tree.core_uplink, spine_of_core, core_vertex, tree.links_per_core),
        spine_down=add("spine_down", tree.core_uplink, core_vertex, spine_of_core, tree.links_per_core),
    )
    return fabric, first_leaf + home
