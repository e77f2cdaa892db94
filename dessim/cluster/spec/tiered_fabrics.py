"""`[fabric]` tables of fabrics with tiers of switches, and how each becomes a fabric.

The tables of fabrics whose NICs are attached to routers are in `direct_fabrics.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from dessim.cluster.fabrics import fat_tree, leaf_spine, nvlink_domain, rail, rail_only, single_switch
from dessim.cluster.links import IntArray, LinkBuilder
from dessim.cluster.parts import Switch
from dessim.cluster.routing.policy import Routing
from dessim.cluster.routing.routes import Fabric
from dessim.cluster.spec.parts import Count, LinkTable, SwitchTable, Table, part_of

Joined = tuple[Fabric, IntArray]
"""A fabric, and the vertex to which each NIC is attached."""


@dataclass(frozen=True, slots=True)
class Site:
    """The NICs that a fabric has to join: `counts` nodes with `nics` NICs each, for each kind of server.

    `folder` is that of the topology file; paths in the file are relative to it.
    """

    counts: tuple[int, ...]
    nics: tuple[int, ...]
    folder: Path

    @property
    def nodes(self) -> int:
        """Number of nodes of all kinds."""
        return sum(self.counts)

    @property
    def node(self) -> IntArray:
        """The node of each NIC, [n_nics]."""
        return np.repeat(np.arange(self.nodes), np.repeat(self.nics, self.counts))

    @property
    def rail(self) -> IntArray:
        """The place of each NIC among those of its node, [n_nics]."""
        return np.concatenate([np.tile(np.arange(n), count) for count, n in zip(self.counts, self.nics, strict=True)])


class FabricTable(Table):
    """Base of all fabrics."""

    switch: Annotated[SwitchTable | None, part_of("switch")] = None

    @property
    def trays(self) -> int:
        """Number of identical trays of a node, each with a NIC on every rail."""
        return 1

    def built_switch(self) -> Switch | None:
        return self.switch.build() if self.switch else None

    def problem(self, nodes: int, nics: int, nvlink: bool) -> str:
        """Why the fabric cannot join `nodes` nodes of `nics` NICs each, with or without NVLink; empty if it can."""
        return ""

    def build_routing(self) -> Routing:
        return Routing("static")

    def n_links(self, nodes: int, nics: int) -> int:
        """Number of links between switches, counting both directions, without building them."""
        return 0

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        raise NotImplementedError


class RoutedTable(FabricTable):
    """Keys of every fabric that offers several routes between two switches."""

    routing: Literal["split", "static", "ecmp", "adaptive"] = "split"
    routing_seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    flows_per_pair: Count = 1

    @model_validator(mode="after")
    def _keys_apply(self) -> RoutedTable:
        if self.routing_seed and self.routing != "ecmp":
            raise ValueError(f'routing_seed is for routing = "ecmp", not "{self.routing}"')
        if self.flows_per_pair > 1 and self.routing not in ("ecmp", "adaptive"):
            raise ValueError(f'flows_per_pair is for routing = "ecmp" or "adaptive", not "{self.routing}"')
        return self

    def build_routing(self) -> Routing:
        return Routing(self.routing, self.routing_seed, self.flows_per_pair)


class SingleSwitchTable(FabricTable):
    """`[fabric] kind = "single_switch"`."""

    kind: Literal["single_switch"]

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        return single_switch.build(builder, len(site.node), self.built_switch())


class TieredTable(RoutedTable):
    """Keys of all fabrics with several tiers."""

    links_per_spine: Count = 1
    uplink: Annotated[LinkTable, part_of("link")]


class TwoTierTable(TieredTable):
    """Keys of all fabrics of leaves and spines."""

    spines: Count

    def tiers(self) -> leaf_spine.Tiers:
        return leaf_spine.Tiers(self.spines, self.links_per_spine, self.uplink.build(), self.built_switch())


class LeafSpineTable(TwoTierTable):
    """`[fabric] kind = "leaf_spine"`."""

    kind: Literal["leaf_spine"]
    nodes_per_leaf: Count

    def n_links(self, nodes: int, nics: int) -> int:
        return 2 * -(-nodes // self.nodes_per_leaf) * self.spines

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        return leaf_spine.build(builder, site.node // self.nodes_per_leaf, self.tiers())


class RailTable(TwoTierTable):
    """`[fabric] kind = "rail_optimised"`."""

    kind: Literal["rail_optimised"]
    nodes_per_pod: Count
    rail_aware: Annotated[bool, Field(strict=True)] = True

    def n_links(self, nodes: int, nics: int) -> int:
        return 2 * -(-nodes // self.nodes_per_pod) * nics * self.spines

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        return rail.build(builder, site.node, site.rail, self.nodes_per_pod, self.tiers(), rail_aware=self.rail_aware)


class RailOnlyTable(RoutedTable):
    """`[fabric] kind = "rail_only"`. Without `nodes_per_leaf` each rail is one switch, otherwise leaves and spines."""

    kind: Literal["rail_only"]
    nodes_per_leaf: Count | None = None
    spines_per_rail: Count | None = None
    links_per_spine: Count = 1
    uplink: Annotated[LinkTable | None, part_of("link")] = None

    @model_validator(mode="after")
    def _all_or_none(self) -> RailOnlyTable:
        given = [self.nodes_per_leaf is not None, self.spines_per_rail is not None, self.uplink is not None]
        if any(given) and not all(given):
            raise ValueError("rails of several switches need nodes_per_leaf, spines_per_rail and uplink together")
        return self

    def problem(self, nodes: int, nics: int, nvlink: bool) -> str:
        return "" if nvlink or nics == 1 else "rails are joined by NVLink only; describe it as [node.nvlink]"

    def n_links(self, nodes: int, nics: int) -> int:
        if self.nodes_per_leaf is None or self.spines_per_rail is None:
            return 0
        return 2 * -(-nodes // self.nodes_per_leaf) * nics * self.spines_per_rail

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        if len(set(site.nics)) > 1:
            raise ValueError("rails are joined by NVLink only, so every kind of node needs the same number of nics")
        if self.nodes_per_leaf is None or self.spines_per_rail is None or self.uplink is None:
            no_spines = leaf_spine.Tiers(0, 1, None, self.built_switch())
            return rail_only.build(builder, site.node, site.rail, site.nodes, no_spines)
        uplink = self.uplink.build()
        tiers = leaf_spine.Tiers(self.spines_per_rail, self.links_per_spine, uplink, self.built_switch())
        return rail_only.build(builder, site.node, site.rail, self.nodes_per_leaf, tiers)


class FatTreeTable(TieredTable):
    """`[fabric] kind = "fat_tree"`. Without `core_uplink` the cables to the cores are the same part as `uplink`."""

    kind: Literal["fat_tree"]
    nodes_per_leaf: Count
    leaves_per_pod: Count
    spines_per_pod: Count
    cores_per_spine: Count
    links_per_core: Count = 1
    core_uplink: Annotated[LinkTable | None, part_of("link")] = None

    def n_links(self, nodes: int, nics: int) -> int:
        leaves = -(-nodes // self.nodes_per_leaf)
        pods = -(-leaves // self.leaves_per_pod)
        return 2 * self.spines_per_pod * (leaves + pods * self.cores_per_spine)

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        tree = fat_tree.Tree(
            leaves_per_pod=self.leaves_per_pod,
            spines=self.spines_per_pod,
            cores=self.cores_per_spine,
            links_per_spine=self.links_per_spine,
            links_per_core=self.links_per_core,
            uplink=self.uplink.build(),
            core_uplink=(self.core_uplink or self.uplink).build(),
            switch=self.built_switch(),
        )
        return fat_tree.build(builder, site.node // self.nodes_per_leaf, tree)


class NvlinkDomainTable(FabricTable):
    """`[fabric] kind = "nvlink_domain"`: a node is a rack of trays, which the fabric `scale_out` joins like nodes."""

    kind: Literal["nvlink_domain"]
    trays_per_node: Count
    scale_out: Annotated[LeafSpineTable | RailTable | FatTreeTable, Field(discriminator="kind")]

    @property
    def trays(self) -> int:
        return self.trays_per_node

    def build_routing(self) -> Routing:
        return self.scale_out.build_routing()

    def problem(self, nodes: int, nics: int, nvlink: bool) -> str:
        if not nvlink:
            return "a node is one NVLink domain; describe it as [node.nvlink]"
        if self.switch is not None:
            return "write switch in [fabric.scale_out]"
        if nics % self.trays_per_node:
            return f"trays_per_node = {self.trays_per_node} must divide node.nics = {nics}"
        return ""

    def n_links(self, nodes: int, nics: int) -> int:
        return self.scale_out.n_links(nodes * self.trays_per_node, nics // self.trays_per_node)

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        trays = Site(
            tuple(count * self.trays_per_node for count in site.counts),
            tuple(nics // self.trays_per_node for nics in site.nics),
            site.folder,
        )
        fabric, leaf_vertex = self.scale_out.build(builder, trays)
        return nvlink_domain.of_trays(fabric), leaf_vertex
