"""Three tiers: leaves that hold the NICs, spines that join the leaves of a pod, cores that join the pods.

The k-ary fat tree of Al-Fares, Loukissas and Vahdat (SIGCOMM 2008) with every count free: spine s of each pod reaches
the cores of plane s and no others, so a message that crosses pods stays on the plane it went up on. With k-port
switches k/2 hosts a leaf, k/2 leaves and spines a pod, k/2 cores a plane and k pods make k**3 / 4 hosts without
oversubscription. All NICs of a node are on one leaf. Parallel cables count as one link of their sum. Left out: pods of
different make, cores that several planes share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import fullest, halves, port_on
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import Pick, Segment, path, spread


@dataclass(frozen=True, slots=True)
class Tree:
    """What a file says about the three tiers; spines are counted a pod, cores a spine (that is, a plane)."""

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

    From leaf l to spine s of its pod goes link `leaf_up + l * spines + s`; from spine s of pod p to core c of plane s
    link `spine_up + (p * spines + s) * cores + c`. Those back are `leaf_down`, `spine_down` with the same offsets.
    NIC i is number `port[i]` of its leaf's, `in_pod[i]` of its pod's [n_nics].
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

        Alternative j of the latter is spine `j // cores` with its core `j % cores`.
        """
        tree = self.tree
        a, b = self.home[src], self.home[dst]
        pod_a, pod_b = a // tree.leaves_per_pod, b // tree.leaves_per_pod
        near, far = np.flatnonzero((a != b) & (pod_a == pod_b)), np.flatnonzero(pod_a != pod_b)
        up, down = self.leaf_up + a * tree.spines, self.leaf_down + b * tree.spines
        over = tree.spines * tree.cores
        core_up, core_down = self.spine_up + pod_a[far] * over, self.spine_down + pod_b[far] * over
        # D-mod-k: a digit of the destination for each tier, so that a shift never meets itself.
        static, in_pod = self.port[dst] % tree.spines, self.in_pod[dst]
        spine = pick(near, tree.spines, static[near])
        core = pick(far, over, (static * tree.cores + in_pod // tree.spines % tree.cores)[far])
        # Twins: whatever leaves a leaf loads its uplinks alike, whatever leaves a pod all links of the pod to the
        # cores; the same on the way down.
        segments = []
        if spine is None:
            both = np.stack([up[near], down[near]], axis=1)
            segments.append(Segment(near, both, spread(tree.spines, 2), twins=True))
        else:
            segments.append(path(near, up[near] + spine, down[near] + spine))
        if core is None:
            every_spine = spread(tree.spines, 1)
            segments.append(Segment(far, up[far, None], every_spine, twins=True))
            segments.append(Segment(far, np.stack([core_up, core_down], axis=1), spread(over, 2), twins=True))
            segments.append(Segment(far, down[far, None], every_spine, twins=True))
        else:
            above = core // tree.cores
            segments.append(path(far, up[far] + above, core_up + core, core_down + core, down[far] + above))
        return segments

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """Closed form of the maximum flow from one half to the other, tier by tier.

        Traffic turns round at the lowest switch that both halves share: that uses no uplink. What is left of a leaf
        goes up as far as its uplinks carry it, meets what comes from the other leaves of the pod, and so on.
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
        """Of the fullest leaf or of the fullest pod, whichever is worse."""
        a_leaf = fullest(self.home, nic_capacity)
        a_pod = fullest(self.home // self.tree.leaves_per_pod, nic_capacity)
        ratio = a_leaf / self.tree.leaf_uplinks if self.leaves > 1 else 1.0
        return max(ratio, a_pod / self.tree.pod_uplinks) if self.pods > 1 else ratio

    def port_problems(self) -> list[str]:
        """One port a NIC and a cable."""
        tree, switch = self.tree, self.tree.switch
        if switch is None:
            return []
        up, over = tree.links_per_spine, tree.links_per_core
        needs = {
            "leaf": int(self.port.max()) + 1 + tree.spines * up,
            "spine": min(self.leaves, tree.leaves_per_pod) * up + tree.cores * over,
            "core": self.pods * over,
        }
        has = f"a {switch.name} has {switch.ports}"
        return [f"a {tier} needs {ports} ports, {has}" for tier, ports in needs.items() if ports > switch.ports]


def build(builder: LinkBuilder, home: IntArray, tree: Tree) -> tuple[FatTree, IntArray]:
    """The fabric, and the vertex each NIC is attached to: a vertex of leaf `home` [n_nics]."""
    leaves = int(home[-1]) + 1
    pods = -(-leaves // tree.leaves_per_pod)
    leaf0 = builder.add_layer("leaf", leaves)
    spine0 = builder.add_layer("spine", pods * tree.spines)
    core0 = builder.add_layer("core", tree.spines * tree.cores)
    leaf, spine = np.divmod(np.arange(leaves * tree.spines), tree.spines)
    below, above = leaf0 + leaf, spine0 + leaf // tree.leaves_per_pod * tree.spines + spine
    pod, core = np.divmod(np.arange(pods * tree.spines * tree.cores), tree.spines * tree.cores)
    middle, top = spine0 + pod * tree.spines + core // tree.cores, core0 + core
    extra = tree.switch.latency if tree.switch else 0.0
    near, far = tree.links_per_spine, tree.links_per_core
    fabric = FatTree(
        tree,
        home,
        port_on(home),
        port_on(home // tree.leaves_per_pod),
        leaf_up=builder.add_links("leaf_up", tree.uplink, below, above, extra_latency=extra, bundle=near),
        leaf_down=builder.add_links("leaf_down", tree.uplink, above, below, extra_latency=extra, bundle=near),
        spine_up=builder.add_links("spine_up", tree.core_uplink, middle, top, extra_latency=extra, bundle=far),
        spine_down=builder.add_links("spine_down", tree.core_uplink, top, middle, extra_latency=extra, bundle=far),
    )
    return fabric, leaf0 + home
