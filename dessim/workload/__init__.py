"""Workloads: the ops of a training step, their dependencies, and their sizes as formulas."""
