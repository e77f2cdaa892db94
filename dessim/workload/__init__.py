"""Workloads: what a training step has to do, in ops and formulas."""
