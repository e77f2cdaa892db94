"""Messages that start together, routed and folded once and used many times.

A collective sends the same pattern over and over: `route_flows` works out paths, colours, and how the messages would
fare on an idle network; the result scales to any size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dessim.arrays import Bools, Floats, Ints
from dessim.cluster import Cluster
from dessim.cluster.hashing import mix
from dessim.cluster.links import Links
from dessim.cluster.routing.trees import Trees
from dessim.cluster.tree_routes import tree_routes
from dessim.errors import PhysicsError
from dessim.sim.core.bounds import FLOW_CAP, LATENCY, REDUCTION, Parts
from dessim.sim.fluid.drain import Chain, drain
from dessim.sim.fluid.fan_in import FanIn
from dessim.sim.fluid.fold import Fold, fold
from dessim.sim.fluid.maxmin import Incidence
from dessim.sim.progress import Progress

_NONE: Ints = np.zeros(0, dtype=np.int64)
_WIRE = 1e-9  # how much a batch may beat its busiest link by rounding


@dataclass(frozen=True, slots=True)
class Flows:
    """A batch of messages. Sizes and times are for scale 1; everything else is exact at any scale.

    Message i takes `size[i]` bytes from GPU `src[i]` to `dst[i]`, or through switches as `trees` says; `folded` is the
    quotient of the network they make (the whole network is routed again in the rare case that it is needed: kept, it
    would fill the memory). For each
    colour: `finish`, the fluid time alone; `bound`, the link class that bounds it; `fixed`, latency and overhead;
    `per_scale`, the receiver's reduction, which takes time but no link. `links` are the links used, `bytes_by_kind`
    what each link class carries. `in_flight`, `after` and `begins` are those of `dessim.collectives.schedule.Stage`;
    where flows wait for each other nothing is folded. `waking` is the part of `fixed` that a rank waits on average for
    those that a shared host wakes before it.
    """

    src: Ints
    dst: Ints
    trees: Trees | None
    size: Floats
    folded: Fold
    finish: Floats
    bound: tuple[str, ...]
    fixed: Floats
    per_scale: Floats
    links: Ints
    bytes_by_kind: Floats
    solves: int
    error: float
    in_flight: int = 1
    after: Ints | None = None
    begins: Floats | None = None
    waking: float = 0.0

    def arrivals(self, scale: float) -> Floats:
        """Seconds from start to arrival of each colour on an idle network."""
        if self.in_flight == 1:
            return (self.finish + self.per_scale) * scale + self.fixed
        fluid, reduction = self.finish * scale, self.per_scale * scale
        return np.array([f + sum(self.late(f, *x)) for f, *x in zip(fluid, self.fixed, reduction, strict=True)])

    def late(self, fluid: float, fixed: float, reduction: float) -> tuple[float, float]:
        """Seconds of latency and overhead, and of the reduction, that pass after a message has drained for `fluid`
        seconds: less than all where other parts in flight hide some."""
        if self.in_flight == 1:
            return fixed, reduction
        part = (fluid + reduction) / self.in_flight
        after = max(fixed + part, fluid, reduction) - fluid
        return min(fixed, after), max(after - fixed, 0.0)

    def chain(self) -> Chain | None:
        """Who waits for whom, where any do."""
        return None if self.after is None else Chain(self.after, self.fixed, self.begins)

    def at_once(self) -> int:
        """How many ranks at most have what they wait for at the same instant, when the last messages arrive on an idle
        network. Messages through one port arrive one after the other."""
        finish = self.finish[self.folded.colour]
        last = finish >= finish.max(initial=0.0) * (1 - _WIRE)
        return min(len(np.unique(self.src[last])), len(np.unique(self.dst[last])))

    def alone(self, scale: float) -> float:
        """Seconds until all have arrived on an idle network."""
        return float(self.arrivals(scale).max(initial=0.0))

    def parts_alone(self, scale: float) -> Parts:
        """`alone`, taken apart: what the last to arrive spent its time on."""
        if not len(self.finish):
            return {}
        last = int(np.argmax(self.arrivals(scale)))
        fluid = float(self.finish[last]) * scale
        fixed, reduction = self.late(fluid, float(self.fixed[last]), float(self.per_scale[last]) * scale)
        return {self.bound[last]: fluid, LATENCY: fixed, REDUCTION: reduction}

    def on(self, cluster: Cluster, folding: bool) -> Flows:
        """The same messages over the ways that `cluster` has."""
        return self.carrying_only(cluster, self.size, folding)

    def carrying_only(self, cluster: Cluster, size: Floats, folding: bool) -> Flows:
        """The same messages, of `size` [n] bytes, over the ways that `cluster` has."""
        reduce = self.per_scale[self.folded.colour] > 0
        return route_flows(
            *(cluster, self.src, self.dst, size, reduce, folding, self.trees),
            in_flight=self.in_flight,
            after=self.after,
            begins=self.begins,
        )

    def load(self, cluster: Cluster, size: Floats) -> Floats:
        """What each link class of `cluster` carries, in bytes, when message i has `size[i]` [n] bytes left."""
        net, _, copies = incidence(cluster, self.src, self.dst, self.trees, self.size)
        kinds, carried = cluster.links.kinds, net.weight * copies * size[net.flow]
        return np.bincount(cluster.links.kind[net.link], carried, minlength=len(kinds)).astype(np.float64)

    def without_messages(self, links: Ints) -> Flows:
        """For keeping: no messages, colours in as few bytes as they need, and an equal list of links in place of its
        own."""
        colour = self.folded.colour.astype(np.min_scalar_type(len(self.finish)))
        folded = replace(self.folded, colour=colour, links=links)
        return replace(self, src=_NONE, dst=_NONE, trees=None, size=_NONE.astype(float), folded=folded, links=links)

    def carrying(self, src: Ints, dst: Ints, size: Floats, trees: Trees | None) -> Flows:
        """Flows that were kept without messages, with the messages they had (empty ones are left out again)."""
        src, dst, size, trees, _ = _sent(src, dst, size, trees)
        folded = replace(self.folded, colour=self.folded.colour.astype(np.int64))
        return replace(self, src=src, dst=dst, trees=trees, size=size, folded=folded)


def route_flows(
    cluster: Cluster,
    src: Ints,
    dst: Ints,
    size: Floats,
    reduce: bool | Bools = False,
    folding: bool = True,
    trees: Trees | None = None,
    tolerance: float = 0.0,
    progress: Progress | None = None,
    in_flight: int = 1,
    after: Ints | None = None,
    begins: Floats | None = None,
) -> Flows:
    """Route and fold messages from GPU `src[i]` to `dst[i]` of `size[i]` bytes. Empty ones are not sent at all.

    `reduce` (of all, or of each) makes the receiver sum; `trees` are messages through summing switches; `tolerance` is
    that of `dessim.sim.fluid.drain`; `in_flight`, `after` and `begins` are the stage's. Messages with no way left never
    finish. Raises OutOfTime when `progress` says so.
    """
    src, dst, size, trees, sent = _sent(src, dst, size, trees)
    if after is not None:
        number = np.append(np.where(sent, np.cumsum(sent) - 1, -1), -1)  # who waits for an empty message does not
        after = number[after][sent]
        begins = None if begins is None else begins[sent]
    net, latency, copies = incidence(cluster, src, dst, trees, size)
    transport = cluster.transport
    # A sender hands its messages over one after the other.
    messages = np.bincount(src, minlength=1)[src] if len(src) else np.zeros(0)
    waking = 0.0
    if transport.host_overhead > 0 and after is None and len(src):
        waking = (min(len(np.unique(src)), len(np.unique(dst))) + 1) / 2 * transport.host_overhead
    fixed = latency + transport.message_overhead * messages + waking
    adds = np.full(len(sent), reduce)[sent] if isinstance(reduce, bool) else reduce[sent]
    # A receiver adds up what comes at once, one message after the other.
    added = adds * size if trees is not None or not len(dst) else np.bincount(dst, adds * size)[dst]
    per_scale = np.where(adds, added / transport.reduction_rate, 0.0)
    kind = together(size, fixed, per_scale)
    going, held = without_held(net)
    folded = fold(going, kind, folding and after is None)
    chain = None if after is None else Chain(after, fixed, begins)
    drained = drain(folded.net, np.where(held, 0.0, size)[folded.flow_of], tolerance, progress, chain)
    finish = np.where(held[folded.flow_of], np.inf, drained.finish)
    bytes_of = size[net.flow]
    carried = net.weight * copies * bytes_of
    load = np.bincount(going.link, going.weight * size[going.flow], minlength=len(net.capacity))[folded.links]
    # Independent of folding and solver: nothing finishes before its busiest link could have carried it.
    busiest = float((load / net.capacity[folded.links]).max(initial=0.0))  # fan-in only lowers capacities
    if finish.max(initial=0.0) < busiest * (1 - _WIRE):
        raise PhysicsError(f"messages took {finish.max():g} s where the busiest link needs {busiest:g} s")
    kinds, kind_of = cluster.links.kinds, cluster.links.kind
    return Flows(
        src=src,
        dst=dst,
        trees=trees,
        size=size,
        folded=folded,
        finish=finish,
        bound=tuple(bound_kind(cluster.links, folded, int(link)) for link in drained.bound),
        fixed=fixed[folded.flow_of],
        per_scale=per_scale[folded.flow_of],
        links=folded.links,
        bytes_by_kind=np.bincount(kind_of[net.link], carried, minlength=len(kinds)).astype(np.float64),
        solves=drained.solves,
        error=drained.error,
        in_flight=in_flight,
        after=after,
        begins=begins,
        waking=waking,
    )


def _sent(src: Ints, dst: Ints, size: Floats, trees: Trees | None) -> tuple[Ints, Ints, Floats, Trees | None, Bools]:
    """The messages that are not empty, and which those are."""
    sent = size > 0
    if sent.all():
        return src, dst, size.astype(np.float64), trees, sent
    trees = trees.take(np.flatnonzero(sent)) if trees is not None else None
    return src[sent], dst[sent], size[sent].astype(np.float64), trees, sent


def incidence(
    cluster: Cluster, src: Ints, dst: Ints, trees: Trees | None = None, size: Floats | None = None
) -> tuple[Incidence, Floats, Floats]:
    """The network that messages make, each one's path latency in seconds, and how many links each entry stands for.

    `size` [n] is for adaptive routing, which goes by bytes; only ratios count. A message with no way left crosses a
    link of no capacity.
    """
    share = cluster.transport.ack_share
    if trees is None:
        # Acknowledgements tell twins apart.
        routes = cluster.routes(src, dst, without_twins=share == 0, size=size, refuse=False)
    else:
        routes = tree_routes(cluster, trees, refuse=False)
    flow, link, weight, copies = routes.flow, routes.link, routes.weight, routes.copies
    if share > 0 and trees is None:
        back = cluster.routes(dst, src, size=size, refuse=False)
        order = np.argsort(np.concatenate([flow, back.flow]), kind="stable")
        flow, link = np.concatenate([flow, back.flow])[order], np.concatenate([link, back.link])[order]
        weight = np.concatenate([weight, back.weight * share])[order]
        copies = np.concatenate([copies, back.copies])[order]
    return on_cluster(cluster, len(src), flow, link, weight), routes.latency, copies


def on_cluster(cluster: Cluster, n_flows: int, flow: Ints, link: Ints, weight: Floats) -> Incidence:
    """The network of flows on a cluster's links, within what its transport can do."""
    links, transport = cluster.links, cluster.transport
    limited = transport.flow_rate < max(node.nic.capacity for node in cluster.nodes)  # else NICs say so already
    if not limited and not transport.fan_in:
        return Incidence(n_flows, flow, link, weight, links.capacity)
    receives = links.kind == links.kinds.index("nic_down")
    cap = None
    if limited:
        cap = np.full(n_flows, np.inf)
        cap[flow[receives[link]]] = transport.flow_rate
    fan_in = FanIn.of(receives, transport.fan_in) if transport.fan_in else None
    return Incidence(n_flows, flow, link, weight, links.capacity, cap, fan_in)


def without_held(net: Incidence) -> tuple[Incidence, Bools]:
    """The network of the flows that have a way, and which [n_flows] are held: those on a link that is down."""
    held = np.zeros(net.n_flows, dtype=bool)
    held[net.flow[net.capacity[net.link] == 0]] = True
    if not held.any():
        return net, held
    goes = ~held[net.flow]
    return replace(net, flow=net.flow[goes], link=net.link[goes], weight=net.weight[goes]), held


def bound_kind(links: Links, folded: Fold, link: int) -> str:
    """What a link of the quotient is called as the bound of a flow; -1 is the flow's own cap."""
    return links.kinds[int(links.kind[folded.link_of[link]])] if link >= 0 else FLOW_CAP


def together(*columns: Floats) -> Ints:
    """Number the rows of parallel columns; equal rows get equal numbers, others almost surely (64-bit hashes)."""
    number = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        if (column != column[:1]).any():
            number = mix(number + mix((column + 0.0).view(np.uint64)))  # + 0.0: -0.0 is 0.0
    return number.view(np.int64)
