"""The fabric of a run: the cluster's drawing with the use of its links as colours, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence

from dessim.cluster import Cluster
from dessim.cluster.drawing.draw import draw
from dessim.results.labels import link_label
from dessim.results.pages import blocks as b
from dessim.results.pages.blocks import Block, Column, Figure, Table, Text
from dessim.results.pages.render import checked_drawing
from dessim.results.pages.steps import link_uses, ranked
from dessim.results.rows import Row, data_csv, fitting

_LINK_COLUMNS = ("links", "bytes_per_step", "mean_use", "peak_use")


def fabric(cluster: Cluster, row: Row, whose: str) -> list[Block]:
    """The drawing of a cluster with the use of its links in a run, and the table of its layers.

    `row` has `utilisation` and `bytes_by_link`; `whose` names the run ("table-wise on 64 GPUs").
    """
    use = row["utilisation"]["mean_share"]
    if not use:
        drawing = Figure(f"Cluster {cluster.name}", checked_drawing(draw(cluster), "cluster"), whose, on_paper=True)
        return [drawing, Text("The use of its links was not recorded: no bytes crossed them, or servers hold tables.")]
    title = f"Use of links, {whose}"
    uses = [
        {
            "links": kind,
            "bytes_per_step": row["bytes_by_link"].get(kind, 0.0),
            "mean_use": mean,
            "peak_use": row["utilisation"]["peak_share"][kind],
        }
        for kind, mean in use.items()
    ]
    caption = (
        f"{cluster.name}, {whose}. Darker and wider lines: classes of links with more mean use over the run, in per "
        "cent of their capacity, in the busier direction; the margin has the numbers. One node is drawn with its "
        "leaves, and the rest is folded. Grey: carried nothing."
    )
    drawing = Figure(
        title, checked_drawing(draw(cluster, use), "cluster"), caption, data_csv(uses, _LINK_COLUMNS), on_paper=True
    )
    return [drawing, link_uses(row, whose)]


def layers(rows: Sequence[Row]) -> Table | None:
    """The mean use of each class of links in each row; None where no row has any."""
    used = [row for row in ranked(fitting(rows)) if row["utilisation"]["mean_share"]]
    kinds = list(dict.fromkeys(kind for row in used for kind in row["utilisation"]["mean_share"]))
    if not kinds:
        return None
    columns = (
        *(Column("GPUs", choose=True), Column("strategy", left=True, choose=True)),
        *(Column(link_label(kind)) for kind in kinds),
    )
    cells = [
        [
            b.whole(row["gpus"]),
            b.strategy(row["strategy"]),
            *(b.share(row["utilisation"]["mean_share"].get(kind)) for kind in kinds),
        ]
        for row in used
    ]
    return Table("Mean use of links by layer", columns, cells, "In per cent of the capacity of all links of a class.")
