"""Writes docs/tutorials/samples, the inputs of the tutorials: `python -m tests.samples`.

They are what a user's own tools would have written. The readings of the log are published ones (studies/published).
"""

from __future__ import annotations

import csv
import gzip
import io
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.calibrate.nccl.logs import log
from tests.cluster.importers import servers
from tests.cluster.importers.ib_net import ib_net
from tests.cluster.importers.test_same_times import A100, original_of

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "docs" / "tutorials" / "samples"
_FABRIC = 'kind = "leaf_spine"\nnodes_per_leaf = 2\nspines = 2\nlinks_per_spine = 4\nuplink = "infiniband-hdr"'
_CLICKS = 1500


def network() -> str:
    """The output of ibnetdiscover for four servers of eight adapters under two leaves and two spines, 2:1."""
    with TemporaryDirectory() as folder:
        return ib_net(original_of(Path(folder), A100, 4, _FABRIC), 25e9)


def readings() -> str:
    """ABCI's all_reduce on 16 A100 of two servers, as nccl-tests prints it."""
    with (ROOT / "studies" / "published" / "nccl_tests.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if (r["cluster"], r["gpus"], r["op"]) == ("abci_a", "16", "all_reduce")]
    times = [(int(row["bytes"]), float(row["time_us"])) for row in rows]
    return log(times=times, ranks=16, hosts=2, device="NVIDIA A100-SXM4-40GB")


def clicks() -> str:
    """Criteo's lines, without integers: tables of 2 to 20,000 ids, drawn by Zipf's law."""
    draw = random.Random(1)
    rows = [int(2 * 10_000 ** (table / 25)) for table in range(26)]
    columns = [draw.choices(range(n), [(rank + 3) ** -1.1 for rank in range(n)], k=_CLICKS) for n in rows]
    heads = [[str(draw.randrange(4) // 3), *[""] * 13] for _ in range(_CLICKS)]
    lines = ("\t".join([*head, *(f"{id_:x}" for id_ in ids)]) for head, *ids in zip(heads, *columns, strict=True))
    return "".join(f"{line}\n" for line in lines)


def samples() -> dict[str, str]:
    """The text of each sample by the name of its file; names ending in .gz are compressed."""
    return {
        "ibnetdiscover.txt": network(),
        "nccl.xml": servers.dgx_a100(),
        "all_reduce.log": readings(),
        "clicks.tsv.gz": clicks(),
    }


def text_of(path: Path) -> str:
    """The text of a sample."""
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text("utf-8")


def main() -> None:
    """Write every sample."""
    SAMPLES.mkdir(exist_ok=True)
    for name, text in samples().items():
        data = text.encode()
        if name.endswith(".gz"):
            packed = io.BytesIO()
            with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
                file.write(data)
            data = packed.getvalue()
        (SAMPLES / name).write_bytes(data)


if __name__ == "__main__":
    main()
