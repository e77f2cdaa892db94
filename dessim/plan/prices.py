"""The user's prices: a TOML file with the price of a GPU or of a whole server, and where it is from.

schema_version = 1
gpu = "2.50 $/h"              # of one GPU; or node = "20 $/h" for a server with all of its GPUs
source = "offer of 3 March"   # optional
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ValidationError, model_validator

from dessim.cluster import Cluster
from dessim.cluster.spec.parts import Table, quantity
from dessim.cluster.spec.topology_file import problems
from dessim.commands.support.spreads import servers_of
from dessim.errors import FileError
from dessim.files import read_toml
from dessim.units import parse_price

Hourly = Annotated[float, quantity(parse_price, positive=False)]


class Prices(Table):
    """Dollars an hour of a GPU, or of a server: the other is None."""

    schema_version: Literal[1]
    gpu: Hourly | None = None
    node: Hourly | None = None
    source: str = ""

    @model_validator(mode="after")
    def _has_one_price(self) -> Prices:
        if (self.gpu is None) == (self.node is None):
            raise ValueError('write the price of a gpu or of a node, one of them, such as gpu = "2.50 $/h"')
        return self

    def of(self, cluster: Cluster, gpus: int) -> float:
        """Dollars an hour of the first `gpus` GPUs; a server that is used in part is paid whole."""
        if self.gpu is not None:
            return self.gpu * gpus
        assert self.node is not None
        return self.node * servers_of(cluster, range(gpus))


def load_prices(path: Path) -> Prices:
    """Read a file of prices. Raises FileError."""
    try:
        return Prices.model_validate(read_toml(path))
    except ValidationError as error:
        raise FileError(path, "", problems(error)) from None
