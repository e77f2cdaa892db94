"""Collectives: algorithms that turn an op into stages of point-to-point messages, and closed forms of their times."""

from dessim.collectives.algorithms import ALGORITHMS, algorithms_for, check_options, schedule, variants
from dessim.collectives.schedule import Layout, Options, Stage

__all__ = ["ALGORITHMS", "Layout", "Options", "Stage", "algorithms_for", "check_options", "schedule", "variants"]
