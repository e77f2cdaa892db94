"""A cluster as a SimGrid 4 platform (XML version 4.1): a host for each GPU, directed links, and the route of each pair.

Evenly loaded parallel links are one link of their sum. Where a flow still splits, SimGrid counts a link as often as a
route names it: a link has the capacity C / u and appears w / u times, with the share w of a flow and the greatest
common divisor u of the shares that flows send over the link. The latency of a route is then one more link, which
limits nothing. The platform sets SimGrid's plain fluid model (CM02 without TCP's window, cross traffic and correction
factors).

Left out: the costs of the transport, memory and kernels of GPUs, and routes that depend on load.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from xml.sax.saxutils import quoteattr

import numpy as np

from dessim.cluster.graph import Cluster
from dessim.cluster.links import FloatArray, IntArray
from dessim.cluster.parts import Transport
from dessim.cluster.routing.policy import Routing
from dessim.cluster.scaled import scaled
from dessim.errors import UsageError

MAX_GPUS = 512
"""A file lists the routes of all pairs of GPUs: 260,000 for 512."""
SETTINGS = {
    "network/model": "CM02",
    "network/bandwidth-factor": "1",
    "network/latency-factor": "1",
    "network/TCP-gamma": "0",
    "network/crosstraffic": "0",
    "network/weight-S": "0",
}
"""SimGrid's network model as plain as dessim's."""
_HEAD = """<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <config id="General">
{settings}
  </config>
  <zone id="cluster" routing="Full">
"""


def simgrid_platform(cluster: Cluster, gpus: IntArray, *, latency: bool = True) -> tuple[str, list[str]]:
    """Return the platform of `gpus` and sentences on what is lost. Raises UsageError for more than MAX_GPUS.

    Without `latency` all links have none: SimGrid gives flows of shorter latency more of a shared link, dessim does
    not.
    """
    if len(gpus) > MAX_GPUS:
        raise UsageError(f"{len(gpus):,} GPUs: a SimGrid platform lists every pair; write --gpus {MAX_GPUS} or fewer")
    lost = _lost(cluster, latency)
    if cluster.routing.policy == "adaptive":
        cluster = replace(cluster, routing=Routing("static"))
    if not latency:
        cluster = scaled(cluster, "latency", 0.0)
    place, other = np.divmod(np.arange(len(gpus) ** 2), len(gpus))
    src = gpus[place[place != other]]
    dst = gpus[other[place != other]]
    routes = cluster.routes(src, dst, without_twins=True)
    flow, link, weight = _merged(routes.flow, routes.link, routes.weight, len(cluster.links))
    used, at = np.unique(link, return_inverse=True)
    unit = _units(at, weight, len(used))
    times = np.rint(weight / unit[at]).astype(np.int64)
    own_latency = cluster.links.latency[used]
    plain = np.bincount(flow, times * own_latency[at], minlength=len(src))
    on_links = bool(np.allclose(plain, routes.latency, rtol=1e-9, atol=0.0))
    extra = np.zeros(len(src)) if on_links else routes.latency
    names = [quoteattr(cluster.links.name(number)) for number in used.tolist()]
    lines = [_host(cluster, gpu) for gpu in gpus.tolist()]
    rates = cluster.links.capacity[used] / unit
    shown = own_latency if on_links else np.zeros(len(used))
    for name, rate, seconds in zip(names, rates.tolist(), shown.tolist(), strict=True):
        lines.append(f'    <link id={name} bandwidth="{rate!r}Bps" latency="{seconds!r}s"/>')
    for seconds in np.unique(extra[extra > 0]).tolist():
        policy = 'bandwidth="1e18Bps" sharing_policy="FATPIPE"'
        lines.append(f'    <link id="latency {seconds!r}s" {policy} latency="{seconds!r}s"/>')
    lines += _routes(src, dst, flow, at=at, times=times, names=names, extra=extra)
    settings = "\n".join(f'    <prop id="{key}" value="{value}"/>' for key, value in SETTINGS.items())
    return _HEAD.format(settings=settings) + "\n".join([*lines, "  </zone>", "</platform>", ""]), lost


def _host(cluster: Cluster, gpu: int) -> str:
    part, _ = cluster.devices([gpu])[0]
    return f'    <host id="gpu{gpu}" speed="{part.flops * part.efficiency_flops!r}f"/>'


def _merged(flow: IntArray, link: IntArray, weight: FloatArray, n: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Entries of the same flow and link added up, in the order of the first of them."""
    _, first, entry = np.unique(flow * n + link, return_index=True, return_inverse=True)
    total = np.bincount(entry, weight).astype(np.float64)
    order = np.argsort(first, kind="stable")
    return flow[first[order]], link[first[order]], total[order]


def _units(link: IntArray, weight: FloatArray, n: int) -> FloatArray:
    """The greatest common divisor of the shares that flows send over each link, [n]."""
    shares, number = np.unique(np.round(weight, 12), return_inverse=True)
    exact = [Fraction(share).limit_denominator(1 << 16) for share in shares.tolist()]
    unit = [Fraction(0)] * n
    for pair in np.unique(link * len(shares) + number).tolist():
        at, share = divmod(pair, len(shares))
        unit[at] = _gcd(unit[at], exact[share])
    return np.array([float(value) for value in unit])


def _gcd(a: Fraction, b: Fraction) -> Fraction:
    common = math.lcm(a.denominator, b.denominator)
    return Fraction(math.gcd(int(a * common), int(b * common)), common)


def _routes(
    src: IntArray, dst: IntArray, flow: IntArray, *, at: IntArray, times: IntArray, names: list[str], extra: FloatArray
) -> Iterator[str]:
    bounds = np.searchsorted(flow, np.arange(len(src) + 1)).tolist()
    links = at.tolist()
    counts = times.tolist()
    seconds = extra.tolist()
    for number, (a, b) in enumerate(zip(src.tolist(), dst.tolist(), strict=True)):
        hops = range(bounds[number], bounds[number + 1])
        named = "".join(f"<link_ctn id={names[links[hop]]}/>" * counts[hop] for hop in hops)
        if seconds[number]:
            named += f'<link_ctn id="latency {seconds[number]!r}s"/>'
        yield f'    <route src="gpu{a}" dst="gpu{b}" symmetrical="NO">{named}</route>'


def _lost(cluster: Cluster, latency: bool) -> list[str]:
    lost = [f"costs of the transport {cluster.transport.name}: SimGrid sends messages without overhead"]
    limits = Transport("").flow_rate
    if cluster.transport.flow_rate < limits or cluster.transport.fan_in or cluster.transport.ack_share:
        lost.append("limits of the transport: flow_rate, fan_in, ack_share")
    lost.append("GPUs: memory, kernels and precisions; a host computes at the share of fp32 that large products reach")
    if cluster.routing.policy == "adaptive":
        lost.append("adaptive routing: routes are those of an idle fabric")
    if latency:
        lost.append("max-min shares: SimGrid favours flows of shorter latency; --no-latency leaves latencies out")
    else:
        lost.append("latencies of all links")
    return lost
