"""The parts a cluster is made of, as numbers in SI units.

A part is what a datasheet describes: a GPU, a link, a switch, a transport. Every part keeps the text that says where
its numbers come from (`source`) and which of them nobody measured (`assumed`). Rates are per direction. Left out:
power, price, clocks that change under load, ECC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that computes: peak rates, the share of them real kernels reach, and its memory.

    `flops` [FLOP/s] is the dense float32 rate the roofline uses, `memory_bandwidth` [bytes/s] and `memory` [bytes] are
    the device memory's, `launch_overhead` [s] is paid once a kernel. `efficiency_*` are shares in (0, 1].
    `comm_sm_share` in [0, 1) of its processors belongs to a collective while that moves data, 0: copy engines move it.
    `host_bandwidth` [bytes/s, payload] reaches the server's memory; None: what the node's PCIe link carries.
    """

    name: str
    flops: float
    memory_bandwidth: float
    memory: float
    launch_overhead: float
    efficiency_flops: float
    efficiency_memory: float
    source: str
    assumed: str = ""
    comm_sm_share: float = 0.0
    host_bandwidth: float | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a cable, a bus or an NVLink bundle.

    `rate` [bytes/s] is on the wire, `efficiency` the share of it that is payload, `latency` [s] the time of an empty
    message from one end to the other.
    """

    name: str
    rate: float
    efficiency: float
    latency: float
    source: str
    assumed: str = ""

    @property
    def capacity(self) -> float:
        """Payload bytes/s."""
        return self.rate * self.efficiency


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch: how many ports it has, and the time [s] it adds to every link that ends in it.

    `reduces`: it can sum what several ports send it, and multicast (NVLS, SHARP).
    """

    name: str
    ports: int
    latency: float
    source: str
    assumed: str = ""
    reduces: bool = False


@dataclass(frozen=True, slots=True)
class Transport:
    """The software that sends: what a message and a collective call cost besides the wire.

    `message_overhead` [s] is paid by the sender for each message, `op_overhead` [s] once for each collective call,
    `reduction_rate` [bytes/s] bounds how fast a rank sums what it received (inf: never the bottleneck). `algorithms`
    names, for an op, the algorithms the library has; an op that is not there may use any.

    `flow_rate` [bytes/s] limits each flow that crosses a NIC (one TCP connection, one NCCL channel). `fan_in` is a
    curve of points (k, share): k flows that arrive by one NIC at once get that share of its link's capacity together;
    linear between points, constant after the last (empty: always all of it).

    `ack_share` of the bytes of a message flows back against it as acknowledgements. A link that has been idle lets
    `burst` [bytes] pass at once (token buckets, as clouds shape NICs with, and the lab). `host_overhead` [s] is what
    waking a rank takes of a processor that all ranks share: those that a collective ends for at the same instant go on
    one after the other. Of the same processor carrying bytes, from one rank's memory to another's, takes a core for
    each `core_rate` [bytes/s] of all messages together. 0 and inf unless all run on one machine.

    `window` are the bytes that a connection has under way at most; where packets are followed (dessim.sim.packet).
    """

    name: str
    message_overhead: float = 0.0
    op_overhead: float = 0.0
    reduction_rate: float = math.inf
    source: str = ""
    assumed: str = ""
    algorithms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    flow_rate: float = math.inf
    fan_in: tuple[tuple[float, float], ...] = ()
    ack_share: float = 0.0
    burst: float = 0.0
    host_overhead: float = 0.0
    core_rate: float = math.inf
    window: float = math.inf


@dataclass(frozen=True, slots=True)
class Node:
    """A server: `gpus` GPUs, of which GPU i uses NIC `i * nics // gpus`.

    `nvlink` joins each GPU to the node's NVSwitch plane, `pcie` joins each GPU to its NIC; either may be missing.
    `nic` is the link from a NIC to its leaf switch. A rack that is one NVLink domain comes in `trays` alike, each with
    a NIC on every rail; other servers are one tray.

    With `pcie_switches` GPUs and NICs hang on these in equal runs: `pcie` joins each GPU and each NIC to its switch,
    `pcie_uplink` each switch to its CPU, of which there are `sockets`, each joined to each other by `socket_link`.
    `gpu` is what its GPUs are where that is not the cluster's usual one.
    """

    gpus: int
    nics: int
    nic: Link
    nvlink: Link | None = None
    pcie: Link | None = None
    nvswitch: Switch | None = None
    trays: int = 1
    pcie_switches: int = 0
    pcie_uplink: Link | None = None
    sockets: int = 1
    socket_link: Link | None = None
    gpu: Gpu | None = None
