"""A second, independent implementation of the row optimizers, one row at a time, for the reference.

Each is a function of its settings, the row's memory (a dict, empty at first), its values and their gradient [width];
it returns the new values. It shares only the settings with embedding/optim.py, not even torch: NumPy takes a fifth of
the time for a few floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from des_ref.embedding.optim import Adagrad, Adam, Ftrl, RowAdagrad, Sgd

Memory = dict[str, Any]


def sgd(o: Sgd, row: Memory, w: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Gradient descent without momentum."""
    return w - o.rate * g


def rowwise_adagrad(o: RowAdagrad, row: Memory, w: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Adagrad with one accumulator for the row: the sum of the mean squares of its gradients."""
    row["sum"] = row.get("sum", 0.0) + float(g @ g) / len(g)
    return w - o.rate / (row["sum"] ** 0.5 + o.eps) * g


def adagrad(o: Adagrad, row: Memory, w: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Adagrad, element by element."""
    row["sum"] = row.get("sum", 0.0) + g * g
    return w - o.rate * g / (row["sum"] ** 0.5 + o.eps)


def adam(o: Adam, row: Memory, w: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Algorithm 1 of Kingma and Ba (2015); t counts the steps of this row."""
    t = row.get("t", 0) + 1
    m = o.beta_1 * row.get("m", 0.0) + (1 - o.beta_1) * g
    v = o.beta_2 * row.get("v", 0.0) + (1 - o.beta_2) * g * g
    row.update(t=t, m=m, v=v)
    return w - o.rate * (m / (1 - o.beta_1**t)) / ((v / (1 - o.beta_2**t)) ** 0.5 + o.eps)


def ftrl(o: Ftrl, row: Memory, w: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The minimum of the linear losses, l1, l2 and a spring of stiffness sigma_s to each earlier w_s.

    McMahan et al., KDD 2013. The minimum is where the forces on w balance.
    """
    if not row:
        stiffness = o.beta / o.rate + o.l2
        # The force that holds the first minimum at w_0 against l1 and l2.
        row.update(sum=np.zeros_like(g), linear=np.zeros_like(g), pull=stiffness * w + o.l1 * np.sign(w))
    before = np.sqrt(row["sum"])
    row["sum"] = row["sum"] + g * g
    sigma = (np.sqrt(row["sum"]) - before) / o.rate
    row["linear"] = row["linear"] + g
    row["pull"] = row["pull"] + sigma * w
    force = row["pull"] - row["linear"]
    curvature = (o.beta + np.sqrt(row["sum"])) / o.rate + o.l2
    soft = np.where(force > o.l1, force - o.l1, np.where(force < -o.l1, force + o.l1, np.zeros_like(force)))
    return np.where(row["sum"] > 0, soft / curvature, w)


ROW_STEPS: dict[str, Callable[[Any, Memory, np.ndarray, np.ndarray], np.ndarray]] = {
    "sgd": sgd,
    "rowwise_adagrad": rowwise_adagrad,
    "adagrad": adagrad,
    "adam": adam,
    "ftrl": ftrl,
}
