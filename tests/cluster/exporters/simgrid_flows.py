"""Random flows on an exported platform, in SimGrid and in dessim.

`python -m tests.cluster.exporters.simgrid_flows 200` compares 200 sets on every shipped cluster, and prints the largest
difference of each.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from dessim.cluster import Cluster, list_topologies, load_cluster
from dessim.cluster.exporters.simgrid import simgrid_platform
from dessim.cluster.routing.policy import Routing
from dessim.cluster.scaled import scaled
from dessim.sim.fluid.flows import route_flows
from tests.validation import peer

GPUS = 24
"""GPUs of a platform, drawn from the whole cluster."""
APART = 1000.0
"""Seconds between the starts of two sets, so that a set ends before the next one starts."""


def as_exported(cluster: Cluster) -> Cluster:
    """The cluster without what an export loses: latencies, costs of the transport, and routes that depend on load."""
    plain = load_cluster("one-switch_16").transport
    fixed = Routing("static") if cluster.routing.policy == "adaptive" else cluster.routing
    return replace(scaled(cluster, "latency", 0.0), transport=plain, routing=fixed)


def drawn_gpus(cluster: Cluster, rng: np.random.Generator) -> np.ndarray:
    """Some GPUs of the cluster: a server's first ones, and others from anywhere."""
    n = min(GPUS, cluster.n_gpus)
    near = np.arange(min(n, cluster.node.gpus + 2, 8))
    far = rng.permutation(np.arange(len(near), cluster.n_gpus))[: n - len(near)]
    return np.sort(np.concatenate([near, far]))


def largest_difference(cluster: Cluster, sets: int, seed: int = 0) -> float:
    """Compare the finish times of all flows of `sets` random sets; return the largest relative difference."""
    rng = np.random.default_rng(seed)
    gpus = drawn_gpus(cluster, rng)
    platform, _ = simgrid_platform(cluster, gpus, latency=False)
    bed = as_exported(cluster)
    rate = float(cluster.links.capacity.min())
    messages: list[peer.Message] = []
    expected: list[float] = []
    for number in range(sets):
        src = rng.choice(gpus, size=int(rng.integers(2, 20)))
        dst = np.array([rng.choice(gpus[gpus != a]) for a in src])
        size = np.rint(rng.uniform(0.1, 2.0, size=len(src)) * rate)
        flows = route_flows(bed, src, dst, size)
        expected += flows.arrivals(1.0)[flows.folded.colour].tolist()
        messages += [
            (number * APART, s, a, b) for s, a, b in zip(size.tolist(), src.tolist(), dst.tolist(), strict=True)
        ]
    simulated = np.array(peer.platform_times(platform, messages)) - np.array([start for start, *_ in messages])
    return float(np.abs(simulated / np.array(expected) - 1).max())


if __name__ == "__main__":
    for name in list_topologies():
        machine = load_cluster(name)
        difference = largest_difference(machine, int(sys.argv[1]))
        sys.stdout.write(f"{name:36} {machine.kind:16} {difference:.1e}\n")
        sys.stdout.flush()
