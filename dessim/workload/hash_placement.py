"""The workers on which hash placement puts the ids of the trainer's synthetic data (des_ref/hashing.py, in numpy)."""

from __future__ import annotations

import numpy as np

from dessim.arrays import Ints
from dessim.cluster.hashing import GOLDEN, mix64
from dessim.workload.model_sections import GROUP_BITS


def frequent_ids_owners(field: int, ids: int, workers: int, width_group: int | None = None) -> Ints:
    """The owners of the `ids` most frequent ids of a field [ids], most frequent first.

    `width_group`: the number of the table's width, where tables differ in width.
    """
    offset = np.uint64((field + 1) * GOLDEN % 2**64)
    feature = mix64(mix64(np.arange(ids, dtype=np.uint64)) + offset)
    if width_group is not None:
        feature = (feature >> np.uint64(GROUP_BITS) << np.uint64(GROUP_BITS)) | np.uint64(width_group)
    return np.asarray((mix64(feature) >> np.uint64(1)) % np.uint64(workers)).astype(np.int64)
