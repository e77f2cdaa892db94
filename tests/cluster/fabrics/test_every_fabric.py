"""Every fabric: routing policies, oversubscription, ports, refused descriptions, and speed."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from dessim.cluster import Cluster, describe
from dessim.cluster.check import route_problems
from dessim.cluster.spec.topology_file import problems
from dessim.errors import ClusterError
from tests.cluster.fabric_examples import (
    SLOW,
    SMALL,
    bed,
    dragonfly,
    dragonfly_plus,
    graph,
    hyperx,
    racks,
    rail_only,
    torus,
)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bed(17, kind="torus", size=[4, 4], cable=SLOW), "node.count = 17 is more than its 16 places"),
        (
            lambda: bed(4, kind="torus", size=[4, 1], cable=SLOW),
            "fabric.size.1: Input should be greater than or equal to 2",
        ),
        (lambda: hyperx([4, 4], [1], 1), "cables has 1 numbers, size has 2"),
        (lambda: dragonfly(2, 1, 1, 4), "a group's 2 global links reach 2 others at most"),
        (lambda: dragonfly(2, 1, 3, 3), "globals_per_router = 3 is more than the 2 other groups"),
        (
            lambda: racks(2, 4, 1, kind="torus", size=[2, 2]),
            "fabric.scale_out.kind: must be one of leaf_spine, rail_optimised, fat_tree",
        ),
        (
            lambda: bed(2, kind="nvlink_domain", trays_per_node=1, scale_out={}),
            "fabric.scale_out.kind: must be one of leaf_spine",
        ),
        (lambda: rail_only(4, 2, uplink=SLOW), "need nodes_per_leaf, spines_per_rail and uplink together"),
        (lambda: bed(2, kind="graph", cable=SLOW), "write nodes and links, or graphml"),
        (lambda: graph({"a": 1, "b": 1}, [("a", "c"), ("c", "a")]), "'c' and 'a' are joined twice"),
        (lambda: graph({"a": 1}, [("a", "a")]), "a link joins 'a' to itself"),
        (lambda: graph({"gpu0": 1, "b": 1}, [("gpu0", "b")]), "a switch cannot be called 'gpu0'"),
        (lambda: graph({"a": 1, "b": 1}, []), "there is no route from switch 'a' to switch 'b'"),
    ],
)
def test_impossible_fabrics_are_refused(make: Callable[[], Cluster], words: str) -> None:
    with pytest.raises((ValidationError, ClusterError)) as caught:
        make()
    error = caught.value
    message = problems(error) if isinstance(error, ValidationError) else str(error)
    assert words in message and "\n" not in message


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("routing", ["split", "static", "ecmp", "adaptive"])
def test_every_policy_routes_every_fabric(name: str, routing: str) -> None:
    """Flows are conserved, take one route each unless split, and avoid a link that is down where they can."""
    cluster = SMALL[name](routing=routing)
    n = cluster.n_gpus
    src, dst = np.divmod(np.arange(n * n), n)
    src, dst = src[src != dst], dst[src != dst]
    routes = cluster.routes(src, dst)
    assert route_problems(cluster, src, dst, routes) == []
    assert routing == "split" or (routes.weight == 1.0).all()
    split = SMALL[name](routing="split").routes(src, dst)
    is_split = split.weight < 1 - 1e-9
    flow = split.flow[is_split][0]
    broken = np.intersect1d(split.link[is_split & (split.flow == flow)], routes.link[routes.flow == flow])[:1]
    assert len(broken)
    around = cluster.with_links([(broken, 0.0)]).routes(src[[flow]], dst[[flow]])
    assert not np.isin(broken, around.link).any()
    assert route_problems(cluster, src[[flow]], dst[[flow]], around) == []


@pytest.mark.parametrize(
    ("make", "ratio", "needs"),
    [
        # NICs are 100 times as fast as cables. The ratio is NICs over uplinks of a router, a leaf or a group.
        (lambda **more: torus(4, 4, **more), 100 / 4, ["a router needs 5 ports"]),
        (lambda **more: torus(4, 2, hosts_each=3, cables=2, **more), 300 / 6, ["a router needs 9 ports"]),
        (lambda **more: hyperx([4, 3], [1, 2], 2, **more), 200 / 7, ["a router needs 9 ports"]),
        (lambda **more: dragonfly(4, 2, 2, 9, **more), 800 / 8, ["a router needs 7 ports"]),
        (lambda **more: dragonfly(4, 4, 3, 4, **more), 1600 / 12, ["a router needs 10 ports"]),
        (
            lambda **more: dragonfly_plus(2, 3, 2, 2, 5, **more),
            300 / 2,
            ["a leaf needs 5 ports", "a spine needs 4 ports"],
        ),
        (lambda **more: rail_only(6, 2, **more), 1, ["a leaf needs 6 ports"]),
        (
            lambda **more: rail_only(6, 2, nodes_per_leaf=2, spines_per_rail=1, uplink=SLOW, **more),
            2,
            ["a leaf needs 3 ports", "a spine needs 3 ports"],
        ),
        (
            lambda **more: racks(4, 2, 4, kind="leaf_spine", nodes_per_leaf=2, spines=2, **more),
            800 / 2,
            ["a leaf needs 10 ports", "a spine needs 4 ports"],
        ),
        (
            lambda **more: graph({"a": 3, "b": 1}, [("a", "b"), ("c", "a")], **more),
            300 / 2,
            ["a switch a needs 5 ports"],
        ),
    ],
)
def test_oversubscription_and_ports(make: Callable[..., Cluster], ratio: float, needs: list[str]) -> None:
    cluster = make(switch={"name": "tiny", "ports": 2, "latency": "0 s", "source": "test"})
    assert describe(cluster)["oversubscription"] == pytest.approx(ratio)
    assert cluster.fabric.port_problems() == [f"{need}, but tiny has 2" for need in needs]


LARGE = {
    "torus": lambda: torus(32, 32, 64),
    "dragonfly": lambda: dragonfly(32, 16, 16, 128),
    "dragonfly_plus": lambda: dragonfly_plus(16, 16, 16, 16, 256),
    "hyperx": lambda: hyperx([16, 16, 16], [1, 1, 1], 16),
}


@pytest.mark.parametrize("name", list(LARGE))
def test_routing_65536_hosts_is_fast(name: str) -> None:
    cluster = LARGE[name]()
    assert cluster.n_gpus == 65_536
    gpus = np.arange(65_536)
    dst = (gpus + 20_011) % 65_536
    began = time.perf_counter()
    routes = cluster.routes(gpus, dst)
    assert time.perf_counter() - began < 10.0
    assert route_problems(cluster, gpus, dst, routes) == []
