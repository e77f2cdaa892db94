"""Messages that are routed and folded once and then transferred many times.

A collective sends the same pattern of messages over and over. `route_messages` works out their paths, their colours
(dessim.sim.fluid.fold), and how long they take on an idle network. The result scales to any size of the messages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.cluster import Cluster
from dessim.errors import PhysicsError
from dessim.sim.core.bounds import LATENCY, REDUCTION, Parts
from dessim.sim.fluid.drain import Chain, drain
from dessim.sim.fluid.fold import Fold, FoldsTooLittle, fold, number_rows
from dessim.sim.fluid.incidence import Crossings, bound_name, incidence, without_blocked
from dessim.sim.fluid.joint import JointFolds
from dessim.sim.fluid.maxmin import Incidence
from dessim.sim.fluid.messages import Messages, no_messages
from dessim.sim.progress import Progress

_ROUNDING = 1e-9  # relative: how much earlier than physically possible rounding may let messages finish


@dataclass(frozen=True, slots=True, eq=False)
class Flows:
    """Routed messages. Sizes and times hold for scale 1; everything else holds for any scale.

    `folded` is the folded network of the messages. The whole network would fill the memory and is rarely needed, so it
    is not kept but routed again. Where messages wait for others nothing is folded, and each message is a colour.

    Per colour: `finish`, the seconds until it has drained; `bound`, the link class that bounds it; `fixed`, the seconds
    of latency and overhead; `reduction`, the seconds for which its receiver sums, which occupy no link.

    `links` are the links used; `bytes_by_kind` [link classes] what each link class carries. `waking` is the part of
    `fixed` for which an average rank waits while a shared host wakes others. `solves` counts how often rates were
    solved; `error` bounds the error of `finish`, as a share of the last one. `crossings` are kept for a single message
    only. For a stage from a cache, `routed` says where its joint folds with other stages are kept, and its number
    there.
    """

    messages: Messages
    folded: Fold
    finish: Floats
    bound: tuple[str, ...]
    fixed: Floats
    reduction: Floats
    links: Ints
    bytes_by_kind: Floats
    solves: int
    error: float
    waking: float = 0.0
    crossings: Crossings | None = None
    routed: tuple[JointFolds, int] | None = None

    def arrivals(self, scale: float) -> Floats:
        """Seconds from start to arrival of each colour on an idle network."""
        if self.messages.in_flight == 1:
            return (self.finish + self.reduction) * scale + self.fixed
        seconds = []
        for fluid, fixed, reduction in zip(self.finish * scale, self.fixed, self.reduction * scale, strict=True):
            seconds.append(fluid + sum(self.after_draining(fluid, fixed, reduction)))
        return np.array(seconds)

    def after_draining(self, fluid: float, fixed: float, reduction: float) -> tuple[float, float]:
        """Seconds of latency and overhead, and of reduction, after a message has drained for `fluid` seconds.

        With several parts in flight, draining hides some of `fixed` and `reduction`.
        """
        if self.messages.in_flight == 1:
            return fixed, reduction
        per_part = (fluid + reduction) / self.messages.in_flight
        exposed = max(fixed + per_part, fluid, reduction) - fluid
        return min(fixed, exposed), max(exposed - fixed, 0.0)

    def chain(self) -> Chain | None:
        """Which messages wait for others; None if none does."""
        messages = self.messages
        return None if messages.after is None else Chain(messages.after, self.fixed, messages.begins)

    def without_latency(self) -> Flows:
        """The same flows, whose latency and overhead take no time."""
        return replace(self, fixed=np.zeros_like(self.fixed))

    def simultaneous_ranks(self) -> int:
        """How many ranks at most stop waiting at the instant when the last messages arrive on an idle network.

        Messages through one port arrive one after the other.
        """
        finish = self.finish[self.folded.colour]
        last = finish >= finish.max(initial=0.0) * (1 - _ROUNDING)
        return min(len(np.unique(self.messages.src[last])), len(np.unique(self.messages.dst[last])))

    def alone(self, scale: float) -> float:
        """Seconds until all messages have arrived on an idle network."""
        return float(self.arrivals(scale).max(initial=0.0))

    def parts_alone(self, scale: float) -> Parts:
        """The seconds of `alone`, per bottleneck of the message that arrives last."""
        if not len(self.finish):
            return {}
        last = int(np.argmax(self.arrivals(scale)))
        fluid = float(self.finish[last]) * scale
        reduction = float(self.reduction[last]) * scale
        fixed, reduction = self.after_draining(fluid, float(self.fixed[last]), reduction)
        return {self.bound[last]: fluid, LATENCY: fixed, REDUCTION: reduction}

    def rerouted(self, cluster: Cluster, folding: bool) -> Flows:
        """The same messages over the routes of `cluster`."""
        return route_messages(cluster, self.messages, folding=folding)

    def load(self, cluster: Cluster, size: Floats) -> Floats:
        """Bytes that each link class of `cluster` carries if message i has `size[i]` [n_messages] bytes."""
        messages = self.messages
        crossings = incidence(cluster, messages.src, messages.dst, messages.trees, messages.size)
        return crossed_bytes(cluster, crossings, size)

    def without_messages(self, links: Ints) -> Flows:
        """A small copy for a cache: no messages, and colours in as few bytes as possible.

        `links` equals the list of links used and replaces it, so that several copies can share one list.
        """
        folded = replace(self.folded.compact(), links=links)
        return replace(self, messages=no_messages(self.messages.in_flight), folded=folded, links=links, crossings=None)

    def with_messages(self, messages: Messages) -> Flows:
        """The inverse of `without_messages`. Empty messages are left out again."""
        return replace(self, messages=messages.nonempty(), folded=self.folded.expanded())


def route_flows(cluster: Cluster, src: Ints, dst: Ints, size: Floats, folding: bool = True) -> Flows:
    """Route and fold plain messages of `size[i]` bytes from GPU `src[i]` to `dst[i]`, as `route_messages` does."""
    return route_messages(cluster, Messages(src, dst, size), folding=folding)


def route_messages(
    cluster: Cluster,
    messages: Messages,
    *,
    folding: bool = True,
    tolerance: float = 0.0,
    progress: Progress | None = None,
    most_colours: int | None = None,
    crossings: Crossings | None = None,
) -> Flows:
    """Route and fold `messages`, and drain them on an idle network. Empty messages are not sent.

    `crossings` may be given if they are known and no message is empty. `tolerance` is that of
    `dessim.sim.fluid.drain.drain`. A message without a route never finishes (its `finish` is inf). Raises OutOfTime
    when the time budget of `progress` is spent, and FoldsTooLittle before draining more colours than `most_colours`.
    """
    messages = messages.nonempty()
    # Messages of different sizes have different colours, whatever their routes.
    _check_colours(messages.size, most_colours)
    if crossings is None:
        crossings = incidence(cluster, messages.src, messages.dst, messages.trees, messages.size)
    net, latency, _ = crossings
    waking = _average_wait_for_host(cluster, messages)
    fixed = latency + cluster.transport.message_overhead * _messages_of_sender(messages) + waking
    reduction = _reduction_seconds(cluster, messages)
    open_net, blocked = without_blocked(net)
    kind = number_rows(messages.size, fixed, reduction)
    folded = fold(open_net, kind, folding and messages.after is None)
    # `auto` must choose the same whether flows are folded or not, so count colours as if they were.
    _check_colours((folded if folding or most_colours is None else fold(open_net, kind)).flow_of, most_colours)
    chain = None if messages.after is None else Chain(messages.after, fixed, messages.begins)
    drained = drain(folded.net, np.where(blocked, 0.0, messages.size)[folded.flow_of], tolerance, progress, chain)
    finish = np.where(blocked[folded.flow_of], np.inf, drained.finish)
    _check_busiest_link(open_net, messages.size, folded.links, finish)
    return Flows(
        messages=messages,
        folded=folded,
        finish=finish,
        bound=tuple(bound_name(cluster.links, folded, int(link)) for link in drained.bound),
        fixed=fixed[folded.flow_of],
        reduction=reduction[folded.flow_of],
        links=folded.links,
        bytes_by_kind=crossed_bytes(cluster, crossings, messages.size),
        solves=drained.solves,
        error=drained.error,
        waking=waking,
        crossings=crossings if len(messages) == 1 else None,
    )


def _check_colours(values: Floats | Ints, most: int | None) -> None:
    """Raise FoldsTooLittle if `values` holds more than `most` different ones."""
    if most is not None and len(values) > most and len(np.unique(values)) > most:
        raise FoldsTooLittle


def _messages_of_sender(messages: Messages) -> Floats | Ints:
    """How many messages the sender of each message sends [n_messages]: it hands them over one after the other."""
    if messages.continues or not len(messages):
        return np.zeros(len(messages))
    return np.bincount(messages.src, minlength=1)[messages.src]


def _average_wait_for_host(cluster: Cluster, messages: Messages) -> float:
    """Seconds that an average rank waits while a shared host wakes ranks one after the other."""
    host_overhead = cluster.transport.host_overhead
    if host_overhead == 0 or messages.after is not None or not len(messages):
        return 0.0
    return (min(len(np.unique(messages.src)), len(np.unique(messages.dst))) + 1) / 2 * host_overhead


def _reduction_seconds(cluster: Cluster, messages: Messages) -> Floats:
    """Seconds that the receiver of each message sums [n_messages]. It sums messages one after the other."""
    reducing = messages.reducing()
    summed: Floats = reducing * messages.size
    if messages.trees is None and len(messages):
        summed = np.bincount(messages.dst, summed)[messages.dst].astype(np.float64)
    return np.where(reducing, summed / cluster.transport.reduction_rate, 0.0)


def crossed_bytes(cluster: Cluster, crossings: Crossings, size: Floats) -> Floats:
    """Bytes that each link class of `cluster` carries if message i has `size[i]` [n_messages] bytes."""
    net, _, copies = crossings
    carried = net.weight * copies * size[net.flow]
    kinds = cluster.links.kinds
    return np.bincount(cluster.links.kind[net.link], carried, minlength=len(kinds)).astype(np.float64)


def _check_busiest_link(net: Incidence, size: Floats, links: Ints, finish: Floats) -> None:
    """Raise PhysicsError if the last flow finishes before the busiest of `links` could have carried its bytes.

    This check does not depend on folding or on the solver. Fan-in, which it ignores, only lowers capacities.
    """
    load = np.bincount(net.link, net.weight * size[net.flow], minlength=len(net.capacity))[links]
    busiest = float((load / net.capacity[links]).max(initial=0.0))
    if finish.max(initial=0.0) < busiest * (1 - _ROUNDING):
        raise PhysicsError(f"messages took {finish.max():g} s, but the busiest link needs {busiest:g} s")
