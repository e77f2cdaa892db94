"""`[fabric]` tables of fabrics whose routers with NICs are joined directly, or whose switches are listed one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dessim.cluster.fabrics import dragonfly, dragonfly_plus, graph, hyperx, torus
from dessim.cluster.importers.graphml import read_graphml
from dessim.cluster.importers.read import read_text
from dessim.cluster.links import LinkBuilder
from dessim.cluster.spec.parts import Count, LinkTable, Table, part_of
from dessim.cluster.spec.tiered_fabrics import Joined, RoutedTable, Site
from dessim.errors import ClusterError

Size = Annotated[tuple[Annotated[int, Field(ge=2, strict=True)], ...], Field(min_length=1, max_length=len(torus.AXES))]
Flag = Annotated[bool, Field(strict=True)]


class RoutersTable(RoutedTable):
    """Keys of all fabrics whose nodes are attached to routers."""

    nodes_per_router: Count = 1

    @property
    def routers(self) -> int:
        raise NotImplementedError

    def problem(self, nodes: int, nics: int, nvlink: bool) -> str:
        room = self.routers * self.nodes_per_router
        return f"node.count = {nodes} is more than its {room} places for nodes" if nodes > room else ""


class TorusTable(RoutersTable):
    """`[fabric] kind = "torus"`."""

    kind: Literal["torus"]
    size: Size
    cable: Annotated[LinkTable, part_of("link")]
    cables: Count = 1

    @property
    def routers(self) -> int:
        return math.prod(self.size)

    def n_links(self, nodes: int, nics: int) -> int:
        return 2 * len(self.size) * self.routers

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        grid = torus.Grid(self.size, self.cable.build(), self.cables, self.built_switch())
        return torus.build(builder, site.node // self.nodes_per_router, grid)


class HyperXTable(RoutersTable):
    """`[fabric] kind = "hyperx"`. Without `cables` there is one between any two routers of a line."""

    kind: Literal["hyperx"]
    size: Size
    cable: Annotated[LinkTable, part_of("link")]
    cables: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _one_per_dimension(self) -> HyperXTable:
        if self.cables and len(self.cables) != len(self.size):
            raise ValueError(
                f"cables has {len(self.cables)} numbers, size has {len(self.size)}; write one per dimension"
            )
        return self

    @property
    def routers(self) -> int:
        return math.prod(self.size)

    def n_links(self, nodes: int, nics: int) -> int:
        return self.routers * sum(n - 1 for n in self.size)

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        cables = self.cables or (1,) * len(self.size)
        shape = hyperx.Shape(self.size, cables, self.cable.build(), self.built_switch())
        return hyperx.build(builder, site.node // self.nodes_per_router, shape)


class GroupsTable(RoutedTable):
    """Keys of both dragonflies, which join groups of switches by global links."""

    groups: Annotated[int, Field(ge=2, strict=True)]
    local_link: Annotated[LinkTable, part_of("link")]
    global_link: Annotated[LinkTable, part_of("link")]
    valiant: Flag = False

    def global_links(self, switches: int, per_switch: int) -> dragonfly.GlobalLinks:
        return dragonfly.GlobalLinks(self.groups, switches, per_switch)

    def global_link_problem(self, switches: int, per_switch: int, key: str) -> str:
        """Why a group cannot reach every other group, with at most one link from a switch to a group; empty if it can.

        `key` is the key that sets `per_switch`.
        """
        ports = switches * per_switch
        others = self.groups - 1
        if others > ports:
            return f"groups = {self.groups}: a group's {ports} global links reach {ports} others at most"
        if per_switch > others:
            return f"{key} = {per_switch} is more than the {others} other groups; write fewer with a higher rate"
        return ""


class DragonflyTable(GroupsTable, RoutersTable):
    """`[fabric] kind = "dragonfly"`."""

    kind: Literal["dragonfly"]
    routers_per_group: Count
    globals_per_router: Count

    @property
    def routers(self) -> int:
        return self.groups * self.routers_per_group

    def problem(self, nodes: int, nics: int, nvlink: bool) -> str:
        problem = self.global_link_problem(self.routers_per_group, self.globals_per_router, "globals_per_router")
        return problem or super().problem(nodes, nics, nvlink)

    def n_links(self, nodes: int, nics: int) -> int:
        return self.routers * (self.routers_per_group - 1 + self.globals_per_router)

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        shape = dragonfly.Shape(
            links=self.global_links(self.routers_per_group, self.globals_per_router),
            local=self.local_link.build(),
            cable=self.global_link.build(),
            switch=self.built_switch(),
            valiant=self.valiant,
        )
        return dragonfly.build(builder, site.node // self.nodes_per_router, shape)


class DragonflyPlusTable(GroupsTable):
    """`[fabric] kind = "dragonfly_plus"`."""

    kind: Literal["dragonfly_plus"]
    leaves_per_group: Count
    spines_per_group: Count
    nodes_per_leaf: Count
    globals_per_spine: Count

    def problem(self, nodes: int, nics: int, nvlink: bool) -> str:
        room = self.groups * self.leaves_per_group * self.nodes_per_leaf
        too_many = f"node.count = {nodes} is more than its {room} places for nodes" if nodes > room else ""
        return self.global_link_problem(self.spines_per_group, self.globals_per_spine, "globals_per_spine") or too_many

    def n_links(self, nodes: int, nics: int) -> int:
        return self.groups * self.spines_per_group * (2 * self.leaves_per_group + self.globals_per_spine)

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        shape = dragonfly_plus.Shape(
            links=self.global_links(self.spines_per_group, self.globals_per_spine),
            leaves=self.leaves_per_group,
            local=self.local_link.build(),
            cable=self.global_link.build(),
            switch=self.built_switch(),
            valiant=self.valiant,
        )
        return dragonfly_plus.build(builder, site.node // self.nodes_per_leaf, shape)


class EdgeTable(Table):
    """`[[fabric.links]]`: cables between two switches, those of the fabric unless `cable` names another part."""

    between: tuple[str, str]
    cables: Count = 1
    cable: Annotated[LinkTable | None, part_of("link")] = None


class GraphTable(RoutedTable):
    """`[fabric] kind = "graph"`: switches and cables as listed in `nodes` and `links`, or in the file `graphml`."""

    kind: Literal["graph"]
    cable: Annotated[LinkTable, part_of("link")]
    nodes: dict[str, Annotated[int, Field(ge=0, strict=True)]] = Field(default_factory=dict)
    links: tuple[EdgeTable, ...] = ()
    graphml: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> GraphTable:
        if bool(self.graphml) == bool(self.nodes):
            raise ValueError('write nodes and links, or graphml = "file.graphml"')
        if self.graphml and self.links:
            raise ValueError("links and graphml both list the links; leave one of the two out")
        return self

    def n_links(self, nodes: int, nics: int) -> int:
        return 2 * len(self.links)

    def plan(self, folder: Path) -> graph.Plan:
        """The switches and cables; switches are numbered in the order in which the file first names them.

        Raises ValueError where the file `graphml` cannot be read.
        """
        if self.graphml:
            path = folder / self.graphml
            try:
                return read_graphml(path, read_text(path), self.cable.build())
            except ClusterError as error:
                raise ValueError(f"graphml = {str(path)!r}: {error.problem}") from None
        named = [*self.nodes, *(end for link in self.links for end in link.between)]
        switches = tuple(dict.fromkeys(named))
        edges = tuple(
            graph.Edge(*link.between, link.cables, link.cable.build() if link.cable else None) for link in self.links
        )
        return graph.Plan(switches, edges, tuple(self.nodes.get(name, 0) for name in switches))

    def build(self, builder: LinkBuilder, site: Site) -> Joined:
        plan = self.plan(site.folder)
        problem = plan.problem()
        if not problem and sum(plan.nodes) != site.nodes:
            problem = f"its switches hold {sum(plan.nodes)} nodes, but node.count is {site.nodes}"
        if problem:
            raise ValueError(problem)
        return graph.build(builder, site.node, plan, self.cable.build(), self.built_switch())
