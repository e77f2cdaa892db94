"""Build a layout with `ip` and `tc`.

Every device is created inside its namespace, so the machine's own network never contains one. Next hops are permanent
neighbours with a link-local address, and IPv6 is disabled: only the ranks' packets are on the wires.

Rates are shaped by `tbf` at both ends of each veth pair. It counts Ethernet frames and splits segments that are larger
than its burst, so segmentation offload can stay enabled. The burst is the bytes of half a millisecond, but at least six
frames. With a smaller burst the shaper depends more on punctual timers; with a larger one a short message exceeds the
rate further.

`lossless` queues emulate InfiniBand, or RoCE with PFC, which neither drop packets nor start slowly: a sender has a
fixed number of bytes in flight and waits for credit. Queues therefore hold more than all senders' windows together;
windows have a fixed size and are full from the first packet on (TCP Reno, which then never changes them); and ports
serve pairs of hosts round-robin, so that flows share a link evenly. `shallow` leaves TCP unchanged; each switch port
has one queue of 20 ms and drops the excess. A NIC never drops packets of its own host.
"""

from __future__ import annotations

from dessim.lab import iproute
from dessim.lab.layout import MTU, Layout, Port

_GATEWAY = "169.254.0.1"
"""The address of the other end of every cable."""
_BURST_S = 5e-4
_BURST_FRAMES = 6
_SHALLOW_S = 20e-3
_DEEP_BYTES = 256 << 20
_WINDOW_BYTES = 256 << 10
_MAX_QUEUES = 1024
_IP_HEADER = 0xFFF00000
"""The offset of the IP header in classic BPF (linux/filter.h, SKF_NET_OFF)."""
_WINDOW_FRAMES = 90
"""Packets in flight from the start: about half of `_WINDOW_BYTES`; the kernel needs the rest for bookkeeping."""
WINDOW = float(_WINDOW_FRAMES * (MTU - 52))
"""Maximum bytes in flight on a connection of a lossless lab; the headers of a packet are 52 bytes long."""


def build(layout: Layout) -> None:
    """Create all namespaces, devices, routes and shapers. Raises LabError.

    After an error the namespaces created so far remain; remove them with `iproute.delete`.
    """
    iproute.batch("ip", [f"netns add {space}" for space in layout.spaces])
    for number, space in enumerate(layout.spaces):
        iproute.write_sysctls(space, _sysctls(layout, space, number))
    iproute.batch("ip", _pairs(layout))
    networks = _networks(layout)
    shapers = _shapers(layout)
    for space in layout.spaces:
        iproute.batch("ip", networks[space], space)
        iproute.batch("tc", shapers[space], space)


def _sysctls(layout: Layout, space: str, number: int) -> dict[str, str]:
    """The kernel parameters of a namespace, set before it has devices, because devices inherit them."""
    values = {"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0"}
    if (iproute.SYSCTLS / "ipv6").exists():
        values["ipv6/conf/default/disable_ipv6"] = "1"
    if space not in layout.hosts:
        values |= {"ipv4/ip_forward": "1", "ipv4/fib_multipath_hash_policy": "1"}
        # With the same hash at every switch, flows that one switch maps to the same uplink would collide at the next.
        if (iproute.SYSCTLS / "ipv4/fib_multipath_hash_seed").exists():
            values["ipv4/fib_multipath_hash_seed"] = str((layout.seed * 1_000_003 + number) % (2**32 - 1) + 1)
    elif layout.queue == "lossless":
        window = f"4096 {_WINDOW_BYTES} {_WINDOW_BYTES}"
        values |= {"ipv4/tcp_rmem": window, "ipv4/tcp_wmem": window}
        values |= {"ipv4/tcp_slow_start_after_idle": "0", "ipv4/tcp_no_metrics_save": "1"}
        # Every kernel has Reno; other algorithms pace packets or estimate the rate.
        values["ipv4/tcp_congestion_control"] = "reno"
    return values


def _pairs(layout: Layout) -> list[str]:
    """Commands that create the veth pair of each cable, with an end in both of its namespaces."""

    def end(number: int) -> str:
        port = layout.ports[number]
        return f"name {port.device} netns {port.space} address {_mac(number)} mtu {MTU}"

    cables = [(i, port.peer) for i, port in enumerate(layout.ports) if i < port.peer]
    return [f"link add {end(a)} type veth peer {end(b)}" for a, b in cables]


def _networks(layout: Layout) -> dict[str, list[str]]:
    """Commands for the devices, neighbours, addresses and routes of each namespace."""
    lines: dict[str, list[str]] = {space: ["link set lo up"] for space in layout.spaces}
    for port in layout.ports:
        lines[port.space] += [
            f"link set {port.device} up",
            f"neigh add {_GATEWAY} lladdr {_mac(port.peer)} dev {port.device} nud permanent",
        ]
    window = f"initcwnd {_WINDOW_FRAMES} initrwnd {_WINDOW_FRAMES}" if layout.queue == "lossless" else ""
    for space, address in layout.hosts.items():
        lines[space] += [
            f"addr add {address}/32 dev e0",
            f"route add default via {_GATEWAY} dev e0 onlink src {address} {window}",
        ]
    for route in layout.routes:
        hops = [f"via {_GATEWAY} dev {device} onlink" for device in route.devices]
        next_hops = hops[0] if len(hops) == 1 else " ".join(f"nexthop {hop}" for hop in hops)
        lines[route.space].append(f"route add {route.address}/32 {next_hops}")
    return lines


def _shapers(layout: Layout) -> dict[str, list[str]]:
    lines: dict[str, list[str]] = {space: [] for space in layout.spaces}
    for port in layout.ports:
        lines[port.space].append(f"qdisc add dev {port.device} root handle 1: {_tbf(layout, port)}")
        if layout.queue == "lossless":
            lines[port.space] += _round_robin(port.device, len(layout.hosts))
    return lines


def _round_robin(device: str, hosts: int) -> list[str]:
    """Inside the shaper, a queue for each pair of hosts, served round-robin packet by packet.

    The classes of `htb` never reach their rate, so only its round-robin order has an effect.
    """
    queues = min(hosts * hosts, _MAX_QUEUES)
    kind = f"htb rate 100gbit burst 1mb cburst 1mb quantum {MTU + 14}"
    lines = [f"qdisc add dev {device} parent 1:1 handle 2: htb default 1"]
    lines += [f"class add dev {device} parent 2: classid 2:{1 + i:x} {kind}" for i in range(queues)]
    program = [
        f"48 0 0 {_IP_HEADER + 15}",  # A = last byte of the source address, 1 for the first host
        f"36 0 0 {hosts}",  # A *= hosts
        "7 0 0 0",  # X = A
        f"48 0 0 {_IP_HEADER + 19}",  # A = last byte of the destination address
        "12 0 0 0",  # A += X
        f"148 0 0 {queues}",  # A %= queues
        f"4 0 0 {2 << 16 | 1}",  # A += the first class, 2:1
        "22 0 0 0",  # return A
    ]
    code = ",".join([str(len(program)), *program])
    lines.append(f'filter add dev {device} parent 2: protocol ip prio 1 bpf bytecode "{code}"')
    return lines


def burst_of(rate: float) -> float:
    """Bytes of frames that a link of `rate` bytes/s passes at once after an idle period."""
    return max(_BURST_S * rate, _BURST_FRAMES * (MTU + 14))


def _tbf(layout: Layout, port: Port) -> str:
    burst = burst_of(port.rate)
    shallow = layout.queue == "shallow" and port.space not in layout.hosts
    limit = port.rate * _SHALLOW_S + burst if shallow else _DEEP_BYTES
    return f"tbf rate {8 * port.rate:.0f}bit burst {burst:.0f} limit {limit:.0f}"


def _mac(number: int) -> str:
    """The MAC address of a port, locally administered."""
    return f"02:64:6c:00:{number >> 8:02x}:{number & 255:02x}"
