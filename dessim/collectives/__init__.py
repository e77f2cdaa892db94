"""Collectives: how one op becomes stages of point-to-point messages, and the closed forms beside them."""

from dessim.collectives.algorithms import ALGORITHMS, algorithms_for, schedule
from dessim.collectives.schedule import Layout, Stage

__all__ = ["ALGORITHMS", "Layout", "Stage", "algorithms_for", "schedule"]
