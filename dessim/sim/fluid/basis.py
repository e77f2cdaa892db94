"""The basis of dessim.sim.fluid.pivot: M x = capacity, kept solved while columns of M change.
from dessim.arrays import Floats, Ints

The inverse is computed once; changes are kept beside it in product form, each a vector and the columns of M that gained
and lost it, and folded into the inverse a block at a time (the revised simplex method's way; the Woodbury identity for
several changes at once).
"""

from __future__ import annotations

import numpy as np

from dessim.arrays import Floats, Ints

_SINGULAR = 1e5  # of a pivot's inverse; beyond it digits are lost


class Basis:
    """`x` [n] solves M x = `capacity`; `blocks` counts how often changes were folded in since M was last inverted.

    Up to `block` changes are kept in product form.
    """

    def __init__(self, capacity: Floats, block: int) -> None:
        n = len(capacity)
        self.x: Floats = np.zeros(n)
        self.blocks = 0
        self._capacity, self._block, self._updates = capacity, block, 0
        self._inverse: Floats = np.zeros((n, n))  # transposed
        self._z, self._corner = np.zeros((block, n)), np.zeros((block, block))
        self._plus, self._minus = np.zeros(block, dtype=np.int64), np.zeros(block, dtype=np.int64)
        self._gains, self._loses = np.zeros(block), np.zeros(block)

    def invert(self, matrix: Floats) -> None:
        """Start from `matrix`, which is M transposed."""
        self._inverse = np.linalg.inv(matrix).astype(np.float64, copy=False)
        self._updates = self.blocks = 0
        self._corner[:] = 0.0
        self.x = self._capacity @ self._inverse

    def inverse(self, room_for: int) -> Floats:
        """The transposed inverse that `update` takes vectors in terms of, with room for so many more changes."""
        if self._updates + room_for > self._block:
            self._absorb()
        return self._inverse

    def update(self, z: Floats, plus: Ints, gains: Floats, minus: Ints, loses: Floats) -> bool:
        """Append changes by the Woodbury identity. False, and nothing changed, where M would be singular.

        Change i adds a vector to column `plus[i]` of M as often as `gains[i]` says and takes it from `minus[i]`
        likewise; `z[i]` is that vector times the inverse that `inverse` gave.
        """
        old, new = slice(0, self._updates), slice(self._updates, self._updates + len(z))
        if self._updates:
            seen = self._gains[old, None] * z.T[self._plus[old]] - self._loses[old, None] * z.T[self._minus[old]]
            z = z - (self._corner[old, old] @ seen).T @ self._z[old]
        pivot = gains[:, None] * z.T[plus] - loses[:, None] * z.T[minus]
        pivot[np.diag_indices_from(pivot)] += 1.0
        try:
            pivot = np.linalg.inv(pivot).astype(np.float64, copy=False)
        except np.linalg.LinAlgError:
            return False
        if not np.abs(pivot).max() < _SINGULAR:
            return False
        change = pivot @ (gains * self.x[plus] - loses * self.x[minus])
        self.x = self.x - change @ z
        if self._updates:
            seen = gains[:, None] * self._z[old].T[plus] - loses[:, None] * self._z[old].T[minus]
            self._corner[new, old] = -(pivot @ seen) @ self._corner[old, old]
        self._corner[new, new] = pivot
        self._z[new], self._plus[new], self._minus[new] = z, plus, minus
        self._gains[new], self._loses[new] = gains, loses
        self._updates = new.stop
        return True

    def _absorb(self) -> None:
        """Fold the product form into the inverse."""
        self.blocks += 1
        old = slice(0, self._updates)
        seen = (
            self._inverse[:, self._plus[old]] * self._gains[old] - self._inverse[:, self._minus[old]] * self._loses[old]
        )
        self._inverse -= seen @ (self._corner[old, old].T @ self._z[old])
        self._updates = 0
        self._corner[:] = 0.0
        self.x = self._capacity @ self._inverse
