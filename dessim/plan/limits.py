"""Sizes of jobs beyond which the planner leaves something out, because it would take too long."""

MAX_GPUS_BY_RANK = 64
"""With more GPUs no plan is simulated rank by rank, which takes 40 s for 1,024 GPUs. So no table is on a server, and
tables have no replicas, unless a user asks for it."""
MAX_TABLES_IN_FULL = 100
"""With more tables, fewer sets of strategies and sizes of caches are tried, tables have no replicas, and no plan is
refined: one table of many changes little."""
