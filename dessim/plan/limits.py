"""Sizes of jobs beyond which the planner leaves something out, because it would take too long."""

MANY_GPUS = 64
"""With more GPUs no plan is simulated rank by rank, which takes 40 s for 1,024: unless a user asks for it, no table is
on a server, and tables have no replicas."""
MANY_TABLES = 100
"""With more tables fewer sets of strategies are tried, and no plan is refined: one table of many changes little."""
