"""Collectives: how one op becomes stages of point-to-point messages, and the closed forms beside them."""

from dessim.collectives.algorithms import ALGORITHMS, algorithms_for, check_options, schedule
from dessim.collectives.schedule import Layout, Options, Stage

__all__ = ["ALGORITHMS", "Layout", "Options", "Stage", "algorithms_for", "check_options", "schedule"]
