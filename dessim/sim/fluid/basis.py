"""The basis of dessim.sim.fluid.pivot: M x = capacity, kept solved while columns of M change.

The inverse of M is computed once. Changes are kept beside it in product form: each is a vector, and the columns of M
that gained and lost it. They are folded into the inverse a block at a time, as in the revised simplex method. The
Woodbury identity applies several changes together.
"""

from __future__ import annotations

import numpy as np

from dessim.arrays import Floats, Ints

_LARGEST_PIVOT_INVERSE = 1e5  # a larger entry means that M is nearly singular and digits would be lost


class Basis:
    """`x` [n] solves M x = `capacity`; `blocks` counts how often changes were folded in since M was last inverted.

    Up to `block` changes are kept in product form.
    """

    def __init__(self, capacity: Floats, block: int) -> None:
        n = len(capacity)
        self.x: Floats = np.zeros(n)
        self.blocks = 0
        self._capacity = capacity
        self._block = block
        self._updates = 0
        self._inverse: Floats = np.zeros((n, n))  # transposed
        self._z = np.zeros((block, n))
        self._corner = np.zeros((block, block))
        self._plus = np.zeros(block, dtype=np.int64)
        self._minus = np.zeros(block, dtype=np.int64)
        self._gains = np.zeros(block)
        self._loses = np.zeros(block)

    def invert(self, matrix: Floats) -> None:
        """Start from `matrix`, which is M transposed."""
        self._inverse = np.linalg.inv(matrix).astype(np.float64, copy=False)
        self._updates = 0
        self.blocks = 0
        self._corner[:] = 0.0
        self.x = self._capacity @ self._inverse

    def inverse(self, room_for: int) -> Floats:
        """The transposed inverse to which the vectors of the next `update` refer, with room for `room_for` changes."""
        if self._updates + room_for > self._block:
            self._absorb()
        return self._inverse

    def update(self, z: Floats, plus: Ints, gains: Floats, minus: Ints, loses: Floats) -> bool:
        """Append changes by the Woodbury identity. Returns False, and changes nothing, if M would become singular.

        Change i adds a vector to column `plus[i]` of M `gains[i]` times and subtracts it from column `minus[i]`
        `loses[i]` times; `z[i]` is that vector times the matrix that `inverse` returned.
        """
        old = slice(0, self._updates)
        new = slice(self._updates, self._updates + len(z))
        if self._updates:
            earlier = self._gains[old, None] * z.T[self._plus[old]] - self._loses[old, None] * z.T[self._minus[old]]
            z = z - (self._corner[old, old] @ earlier).T @ self._z[old]
        pivot = gains[:, None] * z.T[plus] - loses[:, None] * z.T[minus]
        pivot[np.diag_indices_from(pivot)] += 1.0
        try:
            pivot = np.linalg.inv(pivot).astype(np.float64, copy=False)
        except np.linalg.LinAlgError:
            return False
        # Written so that a NaN is refused as well.
        if not np.abs(pivot).max() < _LARGEST_PIVOT_INVERSE:
            return False
        change = pivot @ (gains * self.x[plus] - loses * self.x[minus])
        self.x = self.x - change @ z
        if self._updates:
            coupling = gains[:, None] * self._z[old].T[plus] - loses[:, None] * self._z[old].T[minus]
            self._corner[new, old] = -(pivot @ coupling) @ self._corner[old, old]
        self._corner[new, new] = pivot
        self._z[new] = z
        self._plus[new] = plus
        self._minus[new] = minus
        self._gains[new] = gains
        self._loses[new] = loses
        self._updates = new.stop
        return True

    def _absorb(self) -> None:
        """Fold the changes in product form into the inverse."""
        self.blocks += 1
        old = slice(0, self._updates)
        gained = self._inverse[:, self._plus[old]] * self._gains[old]
        lost = self._inverse[:, self._minus[old]] * self._loses[old]
        self._inverse -= (gained - lost) @ (self._corner[old, old].T @ self._z[old])
        self._updates = 0
        self._corner[:] = 0.0
        self.x = self._capacity @ self._inverse
