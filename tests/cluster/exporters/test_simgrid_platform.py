"""SimGrid reads exported platforms, and its flows finish when dessim's do."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dessim.cluster import load_cluster
from dessim.cluster.exporters.simgrid import simgrid_platform
from dessim.errors import UsageError
from tests.cluster.exporters.simgrid_flows import as_exported, largest_difference
from tests.cluster.fabric_examples import SMALL
from tests.validation import peer

SHIPPED = ["h100-8x_rail_128", "a100-8x_leafspine_16", "a100-8x_tworooms_12", "gb200-nvl72_8", "tpu-v4_torus_512"]


@pytest.fixture(scope="module", autouse=True)
def simgrid() -> None:
    try:
        peer.program()
    except peer.PeerMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", SHIPPED)
def test_random_flows_on_shipped_clusters(name: str) -> None:
    assert largest_difference(load_cluster(name), 5) < 1e-6


@pytest.mark.parametrize("routing", ["split", "static", "ecmp", "adaptive"])
@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "nvlink_domain"])  # compared above
def test_random_flows_on_every_kind_of_fabric_and_routing(kind: str, routing: str) -> None:
    more = {"flows_per_pair": 3} if routing == "ecmp" else {}
    assert largest_difference(SMALL[kind](routing=routing, **more), 3) < 1e-6


@pytest.mark.parametrize("name", ["a100-8x_leafspine_16", "tpu-v4_torus_512", "a100-8x_tworooms_12"])
def test_a_lone_message_takes_as_long_with_latency(name: str) -> None:
    """Split routes included: one flow does not compete, so that SimGrid's weights by latency play no part."""
    cluster = load_cluster(name)
    gpus = np.array([0, 1, 9, cluster.n_gpus - 1])
    platform, _ = simgrid_platform(cluster, gpus)
    pairs = [(a, b) for a in gpus.tolist() for b in gpus.tolist() if a != b]
    messages = [(float(number), 1e6, a, b) for number, (a, b) in enumerate(pairs)]
    simulated = np.array(peer.platform_times(platform, messages)) - np.arange(len(pairs))
    src, dst = np.array(pairs).T
    routes = cluster.routes(src, dst)
    load = np.zeros((len(pairs), len(cluster.links)))
    np.add.at(load, (routes.flow, routes.link), routes.weight)
    expected = routes.latency + 1e6 * (load / cluster.links.capacity).max(axis=1)
    assert simulated == pytest.approx(expected, rel=1e-6)


def test_what_is_lost_is_named() -> None:
    _, lost = simgrid_platform(load_cluster("lab/fat_tree_8"), np.arange(8))
    assert any("favours flows of shorter latency" in line for line in lost)
    with pytest.raises(UsageError, match="--gpus 512 or fewer"):
        simgrid_platform(load_cluster("bench/two_level_1024"), np.arange(1024))


def test_a_platform_is_plain_text() -> None:
    """Without split routes, every link has its own rate and latency, and is named once in a route."""
    cluster = as_exported(load_cluster("one-switch_16"))
    platform, _ = simgrid_platform(load_cluster("one-switch_16"), np.arange(3))
    assert len(re.findall("<link id", platform)) == 6 and len(re.findall("<route ", platform)) == 6
    assert f'bandwidth="{float(cluster.links.capacity[0])!r}Bps" latency="1e-06s"' in platform
