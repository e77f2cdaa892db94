"""Damages files of every format and imports them: the result is a cluster, or an error of one line.

`python -m tests.cluster.importers.fuzz 2000` runs 2,000 mutations of each format and prints how many were imported.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import numpy as np

from dessim.cluster import load_cluster
from dessim.cluster.exporters.graphml import graphml_text
from dessim.cluster.fabrics.graph import Edge, Plan
from dessim.cluster.importers.compose import Wishes
from dessim.commands.topo_import import ImportRequest, run_import
from dessim.errors import DessimError
from tests.cluster.importers import servers
from tests.cluster.importers.ib_net import ib_net

JUNK = [
    "",
    "\x00",
    '"',
    "<",
    ">",
    "&lol;",
    "[",
    "]",
    "=",
    "-1",
    "0",
    "nan",
    "inf",
    "1e999",
    "9" * 40,
    "é",
    "\n",
    "\t",
    "#",
]
SLURM = """# topology/tree
SwitchName=s0 Nodes=tux[0-7]
SwitchName=s1 Nodes=tux[8-15]
SwitchName=s2 Nodes=tux[016-023]
SwitchName=core Switches=s[0-2] LinkSpeed=50
"""
INFRAGRAPH = """
devices:
  - name: server
    components:
      - {name: xpu, count: 4, choice: xpu}
      - {name: nvsw, count: 2, choice: switch}
      - {name: nic, count: 2, choice: nic}
    links:
      - {name: nvlink, physical: {bandwidth: {choice: gigabytes_per_second, gigabytes_per_second: 150}}}
      - {name: pcie}
    edges:
      - {ep1: {component: xpu}, ep2: {component: nvsw}, scheme: many2many, link: nvlink}
      - {ep1: {component: "xpu[0:2]"}, ep2: {component: "nic[0]"}, scheme: many2many, link: pcie}
      - {ep1: {component: "xpu[2:4]"}, ep2: {component: "nic[1]"}, scheme: many2many, link: pcie}
  - name: tor
    components:
      - {name: port, count: 16, choice: port}
links:
  - {name: eth, physical: {bandwidth: {choice: gigabits_per_second, gigabits_per_second: 100}}}
instances:
  - {name: host, device: server, count: 4}
  - {name: leaf, device: tor, count: 2}
  - {name: spine, device: tor}
edges:
  - {ep1: {instance: "host[0:2]", component: nic}, ep2: {instance: "leaf[0]", component: "port[0:4]"}, link: eth}
  - {ep1: {instance: "host[2:]", component: nic}, ep2: {instance: "leaf[1]", component: "port[0:4]"}, link: eth}
  - {ep1: {instance: leaf, component: "port[8:10]"}, ep2: {instance: spine, component: "port[0:4]"}, link: eth}
"""


def small_graphml() -> str:
    """Three switches with servers in a row, which no regular fabric describes."""
    edges = (Edge("east", "mid", 4), Edge("mid", "west", 2))
    return graphml_text(Plan(("east", "mid", "west"), edges, (4, 2, 4)))


def samples() -> dict[str, tuple[str, str]]:
    """Format -> the option that takes it, and a valid text."""
    fabric = load_cluster("lab/fat_tree_8")
    as_hdr = 'name = "x"\n' + fabric.path.read_text().replace("50 Mb/s", "200 Gb/s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fabric.toml")
        path.write_text(as_hdr)
        net = load_cluster(path)
    return {
        "ibnetdiscover": ("fabric", ib_net(net, net.node.nic.rate)),
        "nccl": ("node", servers.dgx_1()),
        "nvidia-smi": ("node", servers.nvidia_smi()),
        "slurm": ("fabric", SLURM),
        "graphml": ("fabric", small_graphml()),
        "infragraph": ("fabric", INFRAGRAPH),
    }


def mutated(text: str, rng: np.random.Generator) -> str:
    """The text after one to four random changes."""
    for _ in range(rng.integers(1, 5)):
        change = rng.integers(8)
        lines = text.split("\n")
        line = int(rng.integers(len(lines)))
        start, end = sorted(rng.integers(len(text) + 1, size=2).tolist())
        end = min(end, start + 20)
        if change == 0:
            text = text[:start] + text[end:]
        elif change == 1:
            text = text[:start] + JUNK[rng.integers(len(JUNK))] + text[start if rng.random() < 0.5 else end :]
        elif change == 2:
            del lines[line]
            text = "\n".join(lines)
        elif change == 3:
            lines.insert(int(rng.integers(len(lines))), lines[line])
            text = "\n".join(lines)
        elif change == 4:
            text = text[:start]
        elif change >= 6:  # keeps XML well-formed: another value of an attribute
            values = [match.span(1) for match in re.finditer(r'="([^"\n]*)"', text)]
            if values:
                first, last = values[rng.integers(len(values))]
                other = values[rng.integers(len(values))]
                value = JUNK[rng.integers(len(JUNK))] if rng.random() < 0.5 else text[slice(*other)]
                text = text[:first] + re.sub(r'[<>&"\x00\n]', "", value) + text[last:]
        else:
            words = text.split(" ")
            words[rng.integers(len(words))] = JUNK[rng.integers(len(JUNK))]
            text = " ".join(words)
    return text


def run(name: str, count: int) -> int:
    """Import `count` mutations of a format; return how many became clusters.

    Raises AssertionError where an import ends in neither a cluster nor an error of one line.
    """
    option, text = samples()[name]
    rng = np.random.default_rng(0)
    imported = 0
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "input"), Path(folder, "mine.toml")
        for number in range(count):
            damaged = mutated(text, rng)
            path.write_text(damaged, "utf-8")
            try:
                run_import(ImportRequest(out, **{option: path}, wishes=Wishes()))
                imported += 1
            except DessimError as error:
                assert "\n" not in str(error) and len(str(error)) < 2000, (name, number, str(error))
            except Exception as error:
                raise AssertionError(
                    f"{name}, mutation {number}: {type(error).__name__}: {error}\n{damaged}"
                ) from error
            out.unlink(missing_ok=True)
            out.with_suffix(".graphml").unlink(missing_ok=True)
    return imported


if __name__ == "__main__":
    for each in samples():
        sys.stdout.write(f"{each}: {run(each, int(sys.argv[1]))} of {sys.argv[1]} imported\n")
