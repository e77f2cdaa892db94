"""A layout as commands of `ip` and `tc`, and their order.

Every device is made inside the namespaces it belongs to; the machine's own network never sees one. Next hops are
permanent neighbours of a link-local address, IPv6 is silent, so that nothing but the ranks' packets is on the wires.

Shaping: `tbf` at both ends of a pair counts Ethernet frames and cuts segments that are larger than its burst, so that
segmentation offload may stay on. A burst is what half a millisecond carries, at least six frames: the less, the more
the shaper depends on timers being punctual; the more, the further a short message runs ahead of the rate.

Lossless fabrics (InfiniBand, RoCE with PFC) neither drop nor start slowly: a sender may have a fixed amount under way
and waits for credit. Here queues hold more than all senders' windows together, windows are full from the first packet
on and have one size (TCP Reno, which then has nothing to decide), and ports serve pairs of hosts in turns, so that
flows that meet share a link evenly. `shallow` leaves TCP as it is, with switch ports that hold 20 ms in one queue and
drop the rest; a NIC never drops what its own host sends.
"""

from __future__ import annotations

from dessim.lab import iproute
from dessim.lab.layout import MTU, Layout, Port

_GATEWAY = "169.254.0.1"
"""The other end of a cable, whichever cable."""
_BURST_S, _BURST_FRAMES = 5e-4, 6
_SHALLOW_S = 20e-3
_DEEP_BYTES = 256 << 20
_WINDOW_BYTES = 256 << 10
_MOST_QUEUES = 1024
_IP = 0xFFF00000
"""Where a classic BPF program finds the IP header (linux/filter.h, SKF_NET_OFF)."""
_WINDOW_FRAMES = 90
"""Packets under way from the start, about half of `_WINDOW_BYTES`: the kernel keeps the other half for its books."""
WINDOW = float(_WINDOW_FRAMES * (MTU - 52))
"""Bytes that a connection has under way at most on a lossless bed: a packet's headers are 52 bytes long."""


def build(layout: Layout) -> None:
    """Make everything; what was made before an error stays for `iproute.delete`. Raises LabError."""
    iproute.batch("ip", [f"netns add {space}" for space in layout.spaces])
    for number, space in enumerate(layout.spaces):
        iproute.write_sysctls(space, _sysctls(layout, space, number))
    iproute.batch("ip", _pairs(layout))
    lines, shapers = _set_up(layout), _shapers(layout)
    for space in layout.spaces:
        iproute.batch("ip", lines[space], space)
        iproute.batch("tc", shapers[space], space)


def _sysctls(layout: Layout, space: str, number: int) -> dict[str, str]:
    """Kernel parameters of a namespace; they are set before it has devices, which inherit them."""
    values = {"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0"}
    if (iproute.SYSCTLS / "ipv6").exists():
        values["ipv6/conf/default/disable_ipv6"] = "1"
    if space not in layout.hosts:
        values |= {"ipv4/ip_forward": "1", "ipv4/fib_multipath_hash_policy": "1"}
        # Alike at every switch, the hash would send all that one switch chose for a way the same way at the next.
        if (iproute.SYSCTLS / "ipv4/fib_multipath_hash_seed").exists():
            values["ipv4/fib_multipath_hash_seed"] = str((layout.seed * 1_000_003 + number) % (2**32 - 1) + 1)
    elif layout.queue == "lossless":
        window = f"4096 {_WINDOW_BYTES} {_WINDOW_BYTES}"
        values |= {"ipv4/tcp_rmem": window, "ipv4/tcp_wmem": window}
        values |= {"ipv4/tcp_slow_start_after_idle": "0", "ipv4/tcp_no_metrics_save": "1"}
        values["ipv4/tcp_congestion_control"] = "reno"  # never absent; others pace, or guess at the rate
    return values


def _pairs(layout: Layout) -> list[str]:
    """Each cable, from both of its namespaces' view at once."""

    def end(number: int) -> str:
        port = layout.ports[number]
        return f"name {port.device} netns {port.space} address {_mac(number)} mtu {MTU}"

    cables = [(i, port.peer) for i, port in enumerate(layout.ports) if i < port.peer]
    return [f"link add {end(a)} type veth peer {end(b)}" for a, b in cables]


def _set_up(layout: Layout) -> dict[str, list[str]]:
    """Of each namespace the devices, neighbours, addresses and routes."""
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
        ways = hops[0] if len(hops) == 1 else " ".join(f"nexthop {hop}" for hop in hops)
        lines[route.space].append(f"route add {route.address}/32 {ways}")
    return lines


def _shapers(layout: Layout) -> dict[str, list[str]]:
    lines: dict[str, list[str]] = {space: [] for space in layout.spaces}
    for port in layout.ports:
        lines[port.space].append(f"qdisc add dev {port.device} root handle 1: {_tbf(layout, port)}")
        if layout.queue == "lossless":
            lines[port.space] += _turns(port.device, len(layout.hosts))
    return lines


def _turns(device: str, hosts: int) -> list[str]:
    """Inside the shaper a queue for each pair of hosts, served in turns of a packet. The classes of `htb` never reach
    the rate they are given, so that only its turns are left."""
    queues = min(hosts * hosts, _MOST_QUEUES)
    kind = f"htb rate 100gbit burst 1mb cburst 1mb quantum {MTU + 14}"
    lines = [f"qdisc add dev {device} parent 1:1 handle 2: htb default 1"]
    lines += [f"class add dev {device} parent 2: classid 2:{1 + i:x} {kind}" for i in range(queues)]
    program = [
        f"48 0 0 {_IP + 15}",  # load byte: the last of the source address, 1 for the first host
        f"36 0 0 {hosts}",  # times
        "7 0 0 0",  # keep
        f"48 0 0 {_IP + 19}",  # load byte: the last of the destination address
        "12 0 0 0",  # add what was kept
        f"148 0 0 {queues}",  # modulo
        f"4 0 0 {2 << 16 | 1}",  # add the first class of a pair
        "22 0 0 0",  # return it
    ]
    code = ",".join([str(len(program)), *program])
    lines.append(f'filter add dev {device} parent 2: protocol ip prio 1 bpf bytecode "{code}"')
    return lines


def burst_of(rate: float) -> float:
    """Bytes of frames that a link of `rate` bytes/s lets pass at once after a pause."""
    return max(_BURST_S * rate, _BURST_FRAMES * (MTU + 14))


def _tbf(layout: Layout, port: Port) -> str:
    burst = burst_of(port.rate)
    shallow = layout.queue == "shallow" and port.space not in layout.hosts
    limit = port.rate * _SHALLOW_S + burst if shallow else _DEEP_BYTES
    return f"tbf rate {8 * port.rate:.0f}bit burst {burst:.0f} limit {limit:.0f}"


def _mac(number: int) -> str:
    """A locally administered address for each port."""
    return f"02:64:6c:00:{number >> 8:02x}:{number & 255:02x}"
