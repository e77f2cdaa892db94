"""MovieLens-100K as click-through data: did the user rate the movie 4 or more?

There are 100,000 ratings with eight fields: user, item, age (decade), gender, occupation, zip (first two characters),
release year, genres (multi-hot). The licence of the data forbids redistribution, so this repository does not contain
it. It is read from RecBole's wheel, which PyPI serves, and kept in the user's cache (`$XDG_CACHE_HOME/dessim`).

Source: Harper and Konstan, ACM TiiS 5(4), 2015; files `ml-100k.{inter,user,item}` of recbole 1.2.1, tab-separated.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from des_ref.data.batch import Examples, InMemory, split
from des_ref.hashing import feature_id, text_key
from dessim.errors import FileError
from dessim.files import atomic_path

FIELDS = ("user", "item", "age", "gender", "occupation", "zip", "year", "genres")
POSITIVE_RATING = 4
SPLIT_SEED = 2020  # gives the split of the reference figures in docs
WHEEL = "recbole-1.2.1-py3-none-any.whl"
# SHA-256 of the three files inside recbole 1.2.1 as PyPI serves it. A mirror may repack the wheel around them.
SHA256 = {
    "inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    "item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
_INSIDE = "recbole/dataset_example/ml-100k/"
_DOWNLOAD_TIMEOUT_S = 120


class DataUnavailable(FileError):
    """MovieLens-100K is neither cached nor downloadable. Callers fall back to synthetic data and report it."""


def cache_folder() -> Path:
    """The folder of downloaded data; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dessim"


def find_or_download() -> Path:
    """The wheel in the cache, downloaded with pip if it is not there. Raises DataUnavailable."""
    cached = cache_folder() / WHEEL
    if cached.is_file():
        return cached
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--no-deps", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", scratch, "recbole==1.2.1"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S)
            reason = done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr.strip() else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = str(error)
        fetched = Path(scratch) / WHEEL
        if not fetched.is_file():
            problem = f"not in {cache_folder()} and pip cannot download it: {reason or 'no wheel'}"
            raise DataUnavailable(WHEEL, "", problem)
        _read(fetched)  # checks the digests, so that a wrong wheel is never cached
        try:
            with atomic_path(cached) as temporary:
                temporary.write_bytes(fetched.read_bytes())
        except OSError as error:
            raise DataUnavailable(cached, "", f"cannot be written: {error.strerror}") from None
    return cached


def _read(path: Path) -> dict[str, list[list[str]]]:
    """Cells of the three files, by name, from a wheel or from a folder that holds them. Raises FileError."""
    tables = {}
    try:
        archive = zipfile.ZipFile(path) if path.is_file() else None
        for name, digest in SHA256.items():
            file = f"ml-100k.{name}"
            raw = archive.read(_INSIDE + file) if archive else (path / file).read_bytes()
            if archive and hashlib.sha256(raw).hexdigest() != digest:
                raise FileError(path, "", f"{file} inside is not the one of recbole 1.2.1 (sha256 differs)")
            lines = raw.decode("utf-8").rstrip("\n").split("\n")[1:]
            tables[name] = [line.split("\t") for line in lines]
    except KeyError as error:
        raise FileError(path, "", f"is not recbole's wheel: {error.args[0]}") from None
    except zipfile.BadZipFile:
        raise FileError(path, "", "is not a wheel; delete it and run again") from None
    except OSError as error:
        raise FileError(error.filename or path, "", f"cannot be read: {error.strerror}") from None
    return tables


def load(path: Path) -> tuple[Examples, Tensor]:
    """All ratings in file order, and their time stamps [100000] in s, from the wheel or a folder. Raises FileError."""
    tables = _read(path)
    if len(tables["inter"]) < 10:
        raise FileError(
            path,
            "",
            f"{len(tables['inter'])} ratings; at least 10 are needed, because a tenth is held out for the test",
        )
    try:
        return _examples(tables)
    except (IndexError, KeyError, ValueError) as error:
        raise FileError(path, "", f"its files are not MovieLens-100K as recbole writes it: {error!r}") from None


def _examples(tables: dict[str, list[list[str]]]) -> tuple[Examples, Tensor]:
    """Ratings and time stamps from the cells of the three files. Raises IndexError, KeyError, ValueError."""

    def ids(field: str, values: list[str]) -> list[int]:
        keys = torch.tensor([text_key(v) for v in values], dtype=torch.int64)
        return feature_id(FIELDS.index(field), keys).tolist()

    users = tables["user"]
    items = tables["item"]
    user_ids = [
        ids("user", [r[0] for r in users]),
        ids("age", [str(int(r[1]) // 10) for r in users]),
        ids("gender", [r[2] for r in users]),
        ids("occupation", [r[3] for r in users]),
        ids("zip", [r[4][:2] for r in users]),
    ]
    genres_of = [r[3].split() if len(r) > 3 else [] for r in items]
    genre_ids = iter(ids("genres", [genre for genres in genres_of for genre in genres]))
    item_ids = [ids("item", [r[0] for r in items]), ids("year", [r[2] for r in items])]

    user_index = {r[0]: i for i, r in enumerate(users)}
    item_index = {r[0]: i for i, r in enumerate(items)}
    # Every user and every item is a fixed list of (field, id); a rating is the two lists joined.
    order = [FIELDS.index(f) for f in ("user", "age", "gender", "occupation", "zip")]
    of_users = np.array([list(zip(order, row, strict=True)) for row in zip(*user_ids, strict=True)], dtype=np.int64)
    item_field, year_field, genre_field = (FIELDS.index(f) for f in ("item", "year", "genres"))
    item_list = [
        [(item_field, item), (year_field, year), *((genre_field, next(genre_ids)) for _ in genres)]
        for (item, year), genres in zip(zip(*item_ids, strict=True), genres_of, strict=True)
    ]
    of_items = np.array([pair for pairs in item_list for pair in pairs], dtype=np.int64)
    item_sizes = np.array([len(pairs) for pairs in item_list], dtype=np.int64)
    rated_by = np.array([user_index[r[0]] for r in tables["inter"]])
    rated = np.array([item_index[r[1]] for r in tables["inter"]])

    sizes = item_sizes[rated]
    offsets = np.concatenate([[0], np.cumsum(len(order) + sizes)])
    flat = np.empty((offsets[-1], 2), dtype=np.int64)
    flat[offsets[:-1, None] + np.arange(len(order))] = of_users[rated_by]
    place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # in the list of an item
    begins = np.cumsum(item_sizes) - item_sizes
    flat[np.repeat(offsets[1:] - sizes, sizes) + place] = of_items[np.repeat(begins[rated], sizes) + place]
    labels = torch.tensor([float(r[2]) >= POSITIVE_RATING for r in tables["inter"]], dtype=torch.float32)
    times = torch.tensor([float(r[3]) for r in tables["inter"]], dtype=torch.float64)
    field, id_ = torch.from_numpy(flat).T.contiguous()
    return Examples(id_, field, torch.from_numpy(offsets), labels), times


def open_movielens(path: Path | None, how: Literal["random", "time"], seed: int) -> InMemory:
    """The data, split 80/10/10 at random (always the same split) or by time. Raises FileError, DataUnavailable.

    `path` is a wheel or a folder; None: the cached wheel. `seed` shuffles the training samples.
    """
    examples, times = load(path if path is not None else find_or_download())
    if how == "time":
        order = torch.argsort(times, stable=True)
    else:
        order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(len(examples)))
    return split(examples, order, seed)
