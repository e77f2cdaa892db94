"""NCCL's choices against its source and logs, its channels against published readings, and laws of its times."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster.curves import Curve
from dessim.collectives.nccl import p2p
from dessim.collectives.nccl.constants import CONSTANTS, values
from dessim.collectives.nccl.model import ALGORITHMS, Override, run
from dessim.collectives.nccl.setup import ARCHITECTURES, WIRINGS, Setup
from dessim.collectives.nccl.steady import SteadyRuns
from dessim.collectives.timing import Timing
from dessim.errors import UsageError
from dessim.trace.schema import Collective

H100 = Setup("hopper", 8, 1, 8, 370.8, nics=8, nic=50.0, network="ib", nvls=True)
V100 = Setup("volta", 4, 1, 4, 120.0, "pairwise", nics=2, nic=12.5, network="ib", version="2.8")
OPS = [op for op in Collective if op is not Collective.BARRIER]


def servers(setup: Setup, nodes: int) -> Setup:
    return replace(setup, n=nodes * setup.per_node, nodes=nodes)


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    per_node = draw(st.sampled_from([1, 2, 4, 8]))
    nodes = draw(st.sampled_from([1, 2, 3, 16, 128])) if per_node > 1 else draw(st.sampled_from([2, 3, 16, 128]))
    architecture = draw(st.sampled_from(ARCHITECTURES))
    return Setup(
        architecture,
        per_node * nodes,
        nodes,
        per_node,
        draw(st.sampled_from([20.0, 120.0, 370.8, 722.0])),
        draw(st.sampled_from(WIRINGS)),
        nics=draw(st.sampled_from([1, per_node])),
        nic=draw(st.sampled_from([12.5, 25.0, 50.0])),
        network=draw(st.sampled_from(["ib", "roce", "tcp"])),
        nvls=architecture in ("hopper", "blackwell"),
        version=draw(st.sampled_from(["2.8", "2.29"])),
    )


@settings(max_examples=60, deadline=None)
@given(setups(), st.sampled_from(OPS), st.lists(st.floats(1, 1 << 33), min_size=2, max_size=6), st.sampled_from(Timing))
def test_more_bytes_never_take_less_time(setup: Setup, op: Collective, sizes: list[float], timing: Timing) -> None:
    for curve in (None, Curve(op, setup.n, setup.nodes, ((8.0, 1.6), (65536.0, 0.4), (1e7, 2.5)))):
        runs = SteadyRuns(op, setup, values(setup, {}), override=Override(), timing=timing, curve=curve)
        times = [runs.run(size).microseconds for size in sorted(sizes)]
        assert times == sorted(times) and times[0] > 0


@settings(max_examples=40, deadline=None)
@given(setups(), st.sampled_from(OPS), st.integers(3, 33))
def test_nothing_is_faster_than_the_links(setup: Setup, op: Collective, power: int) -> None:
    """Each rank sends or receives all but its own share at least once, over NVLink or the network."""
    size = float(1 << power)
    least = size / 2 / (2 * max(setup.nvlink, setup.node_network) * 1e3)
    assert run(op, size, setup, values(setup, {})).microseconds > least


@pytest.mark.parametrize(
    ("setup", "channels"),
    [
        (H100, 24),
        (servers(H100, 2), 16),
        (servers(replace(H100, per_node=2, nics=2), 10), 8),
        (V100, 12),
        (servers(V100, 2), 4),
        (replace(H100, wiring="pcie", nvlink=25.0), 2),
        (Setup("hopper", 12, 2, 8, 370.8, nics=4, nic=50.0, network="ib"), 16),
    ],
)
def test_channels(setup: Setup, channels: int) -> None:
    assert setup.channels == channels


def test_a_message_takes_more_channels_once_its_parts_are_large() -> None:
    """Published sendrecv on 8 H100: 64 and 128 MiB take as long as each other, on 4 and 8 channels of 20 GB/s."""
    assert p2p.channels_of_peer(H100, 32 << 20) == 4
    assert p2p.channels_of_peer(H100, 64 << 20) == 4
    assert p2p.channels_of_peer(H100, 128 << 20) == 8
    assert p2p.channels_of_peer(H100, 1 << 30) == 32
    assert p2p.channels_of_peer(replace(H100, n=4, per_node=4), 32 << 20) == 8


def test_a_peer_across_the_network_has_the_channels_that_all_peers_leave() -> None:
    """Published sendrecv on 10 and 20 GPUs of ten servers: 25 GB/s, two channels of 12.5 GB/s."""
    alone = Setup("hopper", 10, 10, 1, 370.8, nics=1, nic=50.0, network="ib")
    assert p2p.channels_of_peer(alone, 1 << 30) == 2
    pair = Setup("hopper", 20, 10, 2, 370.8, nics=2, nic=50.0, network="ib")
    assert p2p.channels_of_peer(pair, 1 << 30) == 2


@pytest.mark.parametrize(
    ("setup", "size", "name"),
    [
        (H100, 8, "ring ll"),
        (H100, 1 << 30, "nvls simple"),
        (replace(H100, nvls=False), 1 << 30, "ring simple"),
        (servers(H100, 2), 1 << 30, "nvls_tree simple"),
        (servers(V100, 4), 8, "tree ll"),
        (servers(V100, 4), 1 << 25, "ring simple"),
    ],
)
def test_the_choice_is_that_of_ncclss_tuner(setup: Setup, size: int, name: str) -> None:
    assert run(Collective.ALL_REDUCE, size, setup, values(setup, {})).name == name


P4D = Setup("ampere", 16, 2, 8, 240.0, nics=4, nic=12.5, network="efa")


def test_on_efa_a100_use_simple_alone_and_trees_between_two_servers() -> None:
    """The plugin forbids LL and LL128, and a ring would need the NICs for almost twice the bytes."""
    for power in (3, 16, 31):
        assert run(Collective.ALL_REDUCE, 1 << power, P4D, values(P4D, {})).name == "tree simple"
    assert run(Collective.ALL_REDUCE, 8, replace(P4D, architecture="hopper"), values(P4D, {})).name == "tree ll"
    inside = replace(P4D, n=8, nodes=1)
    assert run(Collective.ALL_REDUCE, 8, inside, values(inside, {})).name == "ring ll"


def test_releases_choose_by_their_own_tables() -> None:
    """Before 2.21 rings with LL counted a quarter of the rate, so that Simple took over earlier."""
    sirius = Setup("ampere", 8, 2, 4, 240.0, "pairwise", nics=2, nic=25.0, network="slingshot", amd=True)
    names = [
        run(Collective.ALL_GATHER, 1 << 20, replace(sirius, version=version), values(sirius, {})).name
        for version in ("2.18", "2.20", "2.21", "2.29")
    ]
    assert names == ["ring simple", "ring simple", "ring ll", "ring ll"]


def test_slingshot_copies_messages_of_up_to_192_bytes_through_the_host() -> None:
    """Published all_to_alls on 8 GPUs of two servers: 97 us for 1 KiB, 37 us for 2 KiB."""
    setup = Setup("ampere", 8, 2, 4, 240.0, "pairwise", nics=2, nic=25.0, network="slingshot")
    runs = SteadyRuns(Collective.ALL_TO_ALL, setup, values(setup, {}), override=Override())
    assert runs.run(8 * 192).microseconds - runs.run(8 * 193).microseconds == pytest.approx(4 * 15, abs=1)
    assert runs.run(1 << 20).microseconds > runs.run(8 * 193).microseconds


@pytest.mark.parametrize("op", OPS)
def test_a_kernel_is_a_call_without_its_launch(op: Collective) -> None:
    c = values(H100, {})
    alone, kernel = (run(op, 1 << 16, H100, c, timing=timing).microseconds for timing in (Timing.ALONE, Timing.KERNEL))
    assert alone - c["launch"] - 8 * c["p2p_peer"] < kernel < alone


def test_no_factor_makes_a_network_faster_than_its_links() -> None:
    setup = servers(H100, 2)
    assert values(setup, {"network_efficiency": 1.5})["network_efficiency"] == 1.0


def test_what_nccl_offers_can_be_asked_for_and_nothing_else() -> None:
    setup = servers(H100, 2)
    c = values(setup, {})
    found = run(Collective.ALL_REDUCE, 1 << 20, setup, c, Override("tree", "ll128", 4))
    assert (found.name, found.channels) == ("tree ll128", 4)
    with pytest.raises(UsageError, match="NCCL does not offer 'nvls ll' for all_reduce"):
        run(Collective.ALL_REDUCE, 1 << 20, setup, c, Override("nvls", "ll"))
    sharp = replace(setup, sharp=True)
    assert run(Collective.ALL_REDUCE, 1 << 20, sharp, c, Override("collnet")).name == "collnet simple"
    one = replace(setup, n=16, nodes=16, per_node=1, nics=1)
    assert run(Collective.ALL_GATHER, 1 << 20, one, values(one, {}), Override("pat")).name == "pat simple"


def test_broadcasts_in_a_row_hide_the_time_in_which_their_chain_fills() -> None:
    c = values(H100, {})
    one = run(Collective.BROADCAST, 8, H100, c).microseconds
    assert run(Collective.BROADCAST, 8, H100, c, timing=Timing.REPEATED).microseconds < one


def test_one_process_launches_its_gpus_one_after_the_other() -> None:
    """Logs of `-g 8` on A100 have a floor of 35 us."""
    setup = replace(H100, architecture="ampere", nvls=False, gpus_per_process=8)
    found = run(Collective.ALL_REDUCE, 8, setup, values(setup, {}), timing=Timing.REPEATED)
    assert found.microseconds == pytest.approx(8 * 4.5)


def test_constants_state_their_sources_and_factors_act_on_them() -> None:
    assert all(constant.source for constant in CONSTANTS.values())
    plain = values(H100, {})
    assert values(H100, {"launch": {"hopper": 2.0, "volta": 9.0}})["launch"] == 2 * plain["launch"]
    assert values(H100, {}, overhead=0.5)["hop_ll"] == plain["hop_ll"] / 2
    assert values(H100, {}, overhead=0.5)["channel_ll"] == plain["channel_ll"]
    with pytest.raises(UsageError, match="a factor on 'lunch'"):
        values(H100, {"lunch": 1.0})


def test_all_algorithms_have_a_time() -> None:
    assert set(ALGORITHMS) == {"ring", "tree", "nvls", "nvls_tree", "collnet", "pat"}
