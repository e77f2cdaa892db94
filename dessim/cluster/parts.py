"""The parts a cluster is made of, as numbers in SI units.

A part is what a datasheet describes: a GPU, a link, a switch, a transport. Every part carries a text that states the
source of its numbers (`source`) and which of them are assumptions rather than measurements (`assumed`). Rates are per
direction. Left out: power, price, clock changes under load, ECC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dessim.cluster.curves import Curve, curve_of
from dessim.cluster.kernels import Kernels
from dessim.cluster.spread import BAND_NAMES, Spread, band
from dessim.compute import Precision
from dessim.errors import UsageError


@dataclass(frozen=True, slots=True)
class Gpu:
    """A compute device: its peak rates, the share of them that real kernels reach, and its memory.

    `flops` [FLOP/s] is the dense float32 rate of the roofline; `memory_bandwidth` [bytes/s] and `memory` [bytes]
    describe the device memory; `launch_overhead` [s] is the time in which the host launches a kernel.
    `efficiency_flops` and `efficiency_memory` in (0, 1] are the shares of the peak rates that kernels reach: large
    products of float32 matrices, and kernels that read and write memory in order. A collective occupies
    `comm_sm_share` in [0, 1) of the processors while it moves data; 0 means that copy engines move it.
    `host_bandwidth` [payload bytes/s] is the rate to and from the server's memory; None stands for the rate of the
    node's PCIe link. `architecture` is the NVIDIA generation, by which NCCL chooses ("": none of them).
    `spread` is the standard deviation of log(measured / predicted) compute times; None: not known.
    `variation` is the relative standard deviation of an op's compute time between ranks and steps; 0: not known.
    `power` [W] is what the device draws at most; None: not known.
    `shared_cores` is the number of cores of one machine on which all ranks compute, as on an emulated cluster; this
    device is one such core. None: each rank has its own device.

    `peaks` are the dense rate [FLOP/s] and the share of it that large products reach, by precision. Without them
    `flops` and `efficiency_flops` hold for all precisions. `kernels` describes the kernels; without it a plain roofline
    does.
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
    architecture: str = ""
    spread: float | None = None
    peaks: tuple[tuple[Precision, float, float], ...] = ()
    kernels: Kernels | None = None
    power: float | None = None
    variation: float = 0.0
    shared_cores: int | None = None

    def peak(self, precision: Precision) -> float:
        """The dense rate [FLOP/s]. Raises UsageError for a precision that the part does not state."""
        return self._rate(precision)[0]

    def rate(self, precision: Precision) -> float:
        """The rate [FLOP/s] that large products reach. Raises UsageError as `peak` does."""
        peak, share = self._rate(precision)
        return peak * share

    def faster(self, factor: float) -> Gpu:
        """The device with all peak rates of compute multiplied by `factor`."""
        peaks = tuple((name, peak * factor, share) for name, peak, share in self.peaks)
        return replace(self, flops=self.flops * factor, peaks=peaks)

    def launched(self, factor: float) -> Gpu:
        """The device with all times of a kernel that do not depend on its work multiplied by `factor`."""
        kernels = self.kernels.launched(factor) if self.kernels else None
        return replace(self, launch_overhead=self.launch_overhead * factor, kernels=kernels)

    def shared_by(self, ranks: int) -> Gpu:
        """The part of shared cores that each of `ranks` ranks has while all of them compute."""
        if self.shared_cores is None or self.shared_cores >= ranks:
            return self
        share = self.shared_cores / ranks
        return replace(self.faster(share).launched(1 / share), memory_bandwidth=self.memory_bandwidth * share)

    def _rate(self, precision: Precision) -> tuple[float, float]:
        if not self.peaks or precision is Precision.FP32:
            return self.flops, self.efficiency_flops
        for name, peak, share in self.peaks:
            if name is precision:
                return peak, share
        stated = ", ".join(name for name, _, _ in self.peaks)
        raise UsageError(
            f"{self.name} states no rate for {precision}; choose from {stated}, or give its gpu "
            f'flops = {{{precision} = "100 TFLOP/s", ...}}'
        )


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a cable, a bus or an NVLink bundle.

    `rate` [bytes/s] counts all bytes on the wire, `efficiency` is the share of them that is payload, and `latency` [s]
    is the time that an empty message takes from one end to the other.
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
    """A switch: its number of ports, and the `latency` [s] that it adds to every link that ends in it.

    `reduces` says that it can sum messages from several ports and multicast the result (NVLS, SHARP).
    """

    name: str
    ports: int
    latency: float
    source: str
    assumed: str = ""
    reduces: bool = False


@dataclass(frozen=True, slots=True)
class Nccl:
    """The NCCL of a transport (dessim.collectives.nccl): collectives then run as NCCL runs them.

    `network` is the kind of network (`ib`, `roce`, `tcp`, ...), `version` the release whose tables choose, `amd` says
    that the hosts are AMD's, `collnet` that NCCL has its SHARP plugin. `factors` are those of its constants, maybe by
    architecture; constants that are times are also multiplied by `overhead`. `curves` are what a calibration measured
    beside them.
    """

    network: str
    version: str = "2.29"
    amd: bool = False
    collnet: bool = False
    factors: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    overhead: float = 1.0
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True, slots=True)
class Transport:
    """The communication software: what a message and a collective call cost in addition to the wire.

    Costs:

    - `message_overhead` [s]: paid by the sender for each message.
    - `op_overhead` [s]: paid once for each collective call.
    - `reduction_rate` [bytes/s]: how fast a rank sums the data it receives (inf: never the bottleneck).
    - `algorithms`: for each op, the algorithms that the library offers; an op that is not listed may use any.
    - `nccl`: the costs of NCCL's own algorithms, which then run in place of the three above.
    - `spread`: how far measured collectives spread around predicted ones; None: not known.

    Limits on rates:

    - `flow_rate` [bytes/s]: cap on each flow that crosses a NIC (one TCP connection, one NCCL channel).
    - `fan_in`: incast curve, points (k, share). While k flows arrive through one NIC, together they get that share of
      the capacity of its link. Linear between points, constant after the last; empty: always all of it.
    - `window` [bytes]: most bytes that a connection may have in flight. Only the packet model (`dessim.sim.packet`)
      uses it.

    TCP and shaped links:

    - `ack_share`: acknowledgements send this share of a message's bytes in the opposite direction.
    - `burst` [bytes]: depth of the token bucket of a link (clouds shape NICs with them, and so does the lab). An idle
      link sends this many bytes at once.

    Ranks that share one machine's processors (otherwise 0 and inf):

    - `host_overhead` [s]: processor time to wake a rank. Ranks whose collectives end at the same instant wake one
      after the other.
    - `core_rate` [bytes/s]: copying bytes between the memories of two ranks keeps one core busy for each multiple of
      this rate, summed over all messages.
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
    nccl: Nccl | None = None
    spread: Spread | None = None

    def spread_of(
        self, op: str, size: float, *, gpus: int, servers: int, gpus_per_process: int = 1
    ) -> tuple[str, float] | None:
        """A name for what is uncertain, and the spread of `op` on `size` bytes; None where it is not known.

        Where a calibration measured the op on as many GPUs and servers, its curve has the spread.
        """
        curves = self.nccl.curves if self.nccl is not None else ()
        curve = curve_of(curves, op, gpus=gpus, servers=servers, gpus_per_process=gpus_per_process)
        known = self.spread.of(op, size, across=servers > 1, gpus=gpus) if self.spread is not None else None
        own = curve.spread_of(size) if curve is not None else None
        return known if own is None else (f"{op} {BAND_NAMES[band(size)]} on {gpus} measured GPUs", own)


@dataclass(frozen=True, slots=True)
class Node:
    """One server: `gpus` GPUs and `nics` NICs; GPU i uses NIC `i * nics // gpus`.

    `nvlink` joins each GPU to the NVSwitch plane of the node, and `pcie` joins each GPU to its NIC; either may be
    absent. `nic` is the link from a NIC to its leaf switch. A rack that is one NVLink domain consists of `trays`
    identical trays, each with a NIC on every rail; any other server counts as one tray.

    With `pcie_switches`, GPUs and NICs are divided among these in equal consecutive runs: `pcie` joins each GPU and
    each NIC to its PCIe switch, and `pcie_uplink` joins each PCIe switch to its CPU. There are `sockets` CPUs, each
    pair joined by `socket_link`. `gpu` is set where the GPUs of this server differ from the cluster's default.

    `nvlink_wiring` is how NVLink joins the GPUs: `switched`, `pairwise`, or `cube_mesh` (8 V100). NCCL's model depends
    on it; links are those of a switched plane in any case, which carries at least as much. `host_memory` [bytes] is the
    memory of its CPUs, where that is stated.

    `planes` is a factor on the number of NICs: each set of `nics` is on a plane of the fabric (dessim.cluster.scaled).
    `nic` has the rate of all planes together.
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
    nvlink_wiring: str = "switched"
    host_memory: float | None = None
    planes: float = 1.0
