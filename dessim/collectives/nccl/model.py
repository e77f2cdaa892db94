"""One collective as NCCL runs it: the algorithm that it chooses, and how long that takes on an idle network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from dessim.collectives.nccl import in_network, p2p, ring, tree
from dessim.collectives.nccl.protocols import PROTOCOLS, SIMPLE, Lanes, Protocol, Values
from dessim.collectives.nccl.setup import Setup
from dessim.collectives.nccl.tuner import Candidate, candidates
from dessim.collectives.timing import Timing
from dessim.errors import UsageError
from dessim.trace.schema import Collective
from dessim.wording import choose_from

ALGORITHMS = ("ring", "tree", "nvls", "nvls_tree", "collnet", "pat")
_P2P_OPS = (Collective.ALL_TO_ALL, Collective.SEND_RECV, Collective.GATHER, Collective.SCATTER)
_ROOTED = (Collective.BROADCAST, Collective.REDUCE)
_BETWEEN_KERNELS = 0.9
"""Time [us] between two kernels of a stream, which is part of NCCL's base latency but of no kernel.

Source: NVIDIA, Getting Started with CUDA Graphs (2019): kernels of 2.9 us take 3.8 us each on a V100.
"""


@dataclass(frozen=True, slots=True)
class Override:
    """The user's choices, as made with NCCL_ALGO, NCCL_PROTO and NCCL_MAX_NCHANNELS; empty or None: NCCL chooses."""

    algorithm: str = ""
    protocol: str = ""
    channels: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A collective as it runs: `algorithm` ("p2p" for messages between two ranks), protocol, channels, and time.

    `injected` [us] is the part of the time that only short messages pay (`p2p.injected`).
    """

    algorithm: str
    protocol: Protocol
    channels: int
    microseconds: float
    injected: float = 0.0

    @property
    def name(self) -> str:
        """Such as `ring ll128`."""
        return self.algorithm if self.algorithm == "p2p" else f"{self.algorithm} {self.protocol.name}"


def run(
    op: Collective,
    size: float,
    setup: Setup,
    c: Values,
    override: Override | None = None,
    timing: Timing = Timing.ALONE,
) -> Run:
    """Run the collective `op` on S = `size` bytes with the constants `c`; `timing` says what its time covers.

    Raises UsageError if NCCL does not offer the override's choice for the op on this set-up.
    """
    override = override or Override()
    if op in _P2P_OPS:
        return _messages(op, size, setup, c, timing)
    chosen = _choose(op, size, setup, override)
    lanes = Lanes.of(setup, chosen.protocol, size, tree=chosen.algorithm == "tree", limit=override.channels)
    time = _time(op, chosen.algorithm, size, setup=setup, lanes=lanes, c=c, timing=timing)
    if timing is Timing.KERNEL:
        time -= _outside_kernel(c)
    if timing is Timing.REPEATED and setup.gpus_per_process > 1:
        time = max(time, setup.gpus_per_process * (c["process_launch"] + c["process_channel"] * (lanes.count - 1)))
    return Run(chosen.algorithm, chosen.protocol, round(lanes.count), time)


# NCCL's choice depends on none of the constants that a calibration fits.
@lru_cache(maxsize=2**14)
def _choose(op: Collective, size: float, setup: Setup, override: Override) -> Candidate:
    offered = candidates(op, size, setup)
    fit = [
        candidate
        for candidate in offered
        if override.algorithm in ("", candidate.algorithm) and override.protocol in ("", candidate.protocol.name)
    ]
    if not fit:
        names = ", ".join(sorted({f"{candidate.algorithm} {candidate.protocol.name}" for candidate in offered}))
        asked = " ".join(part for part in (override.algorithm, override.protocol) if part)
        flags = " and ".join(f"--{flag}" for flag in ("algorithm", "protocol") if getattr(override, flag))
        raise UsageError(f"{flags}: NCCL does not offer {asked!r} for {op} on these GPUs; choose from {names}")
    return min(fit, key=lambda candidate: candidate.expected)


def _time(
    op: Collective, algorithm: str, size: float, *, setup: Setup, lanes: Lanes, c: Values, timing: Timing
) -> float:
    if algorithm == "tree":
        return tree.tree(size, setup, lanes, c)
    if algorithm == "nvls":
        return in_network.nvls(size, setup, c)
    if algorithm == "nvls_tree":
        return in_network.nvls_tree(size, setup, c)
    if algorithm == "collnet":
        return in_network.collnet(size, setup, lanes, c)
    if algorithm == "pat":
        return in_network.pat(size, setup, lanes, c)
    if op in _ROOTED:
        return ring.chain(size, setup, lanes, c, timing is Timing.REPEATED)
    return ring.ring(op, size, setup, lanes, c)


def _messages(op: Collective, size: float, setup: Setup, c: Values, timing: Timing) -> Run:
    peers = p2p.send_recv(size, setup) if op is Collective.SEND_RECV else p2p.all_to_all(size, setup)
    injected = p2p.injected(peers, setup, c)
    time = p2p.grouped(peers, setup, c) + injected
    if timing is Timing.KERNEL:
        time -= _outside_kernel(c)
    else:
        time += p2p.on_host(peers, c)
    if timing is Timing.REPEATED and setup.gpus_per_process > 1:
        per_gpu = c["process_launch"] * (2.2 if op is Collective.ALL_TO_ALL else 1.0)
        time += setup.gpus_per_process * per_gpu
    return Run("p2p", SIMPLE, p2p.channels_of_peer(setup, peers.size), time, injected)


def _outside_kernel(c: Values) -> float:
    """The part [us] of NCCL's base latency that belongs to no kernel."""
    return min(_BETWEEN_KERNELS, c["launch"])


def protocol_named(name: str) -> Protocol:
    """The protocol of a name such as `ll128`. Raises UsageError for an unknown name."""
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol
    names = [protocol.name for protocol in PROTOCOLS]
    raise UsageError(f"--protocol: no protocol {name!r}; {choose_from(name, names)}")
