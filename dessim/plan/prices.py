"""The user's prices: a TOML file with the price of a GPU or of a whole server, and where it is from.

schema_version = 1
gpu = "2.50 $/h"              # of one GPU; or node = "20 $/h" for a server with all of its GPUs
source = "offer of 3 March"   # optional
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dessim.cluster import Cluster
from dessim.commands.support.spreads import servers_of
from dessim.errors import FileError, UnitError
from dessim.files import read_toml
from dessim.units import parse_price

_KEYS = ("gpu", "node")


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars an hour of a GPU, or of a server: the other is None."""

    gpu: float | None
    node: float | None
    source: str

    def of(self, cluster: Cluster, gpus: int) -> float:
        """Dollars an hour of the first `gpus` GPUs; a server that is used in part is paid whole."""
        if self.gpu is not None:
            return self.gpu * gpus
        assert self.node is not None
        return self.node * servers_of(cluster, range(gpus))


def load_prices(path: Path) -> Prices:
    """Read a file of prices. Raises FileError."""
    raw = read_toml(path)
    unknown = [key for key in raw if key not in ("schema_version", "source", *_KEYS)]
    if unknown or raw.get("schema_version") != 1:
        what = f"unknown key {unknown[0]!r}" if unknown else "schema_version must be 1"
        raise FileError(path, "", f'{what}; write schema_version = 1 and gpu = "2.50 $/h"')
    stated = [key for key in _KEYS if key in raw]
    if len(stated) != 1:
        raise FileError(path, "", 'write the price of a gpu or of a node, one of them, such as gpu = "2.50 $/h"')
    try:
        price = parse_price(raw[stated[0]])
    except UnitError as error:
        raise FileError(path, stated[0], str(error)) from None
    source = raw.get("source", "")
    if not isinstance(source, str):
        raise FileError(path, "source", "must be text")
    return Prices(price if stated == ["gpu"] else None, price if stated == ["node"] else None, source)
