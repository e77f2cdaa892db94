"""The planner: which strategy for which table, on how many GPUs, at what cost.

Tables are priced by formula (`loads`), HiGHS chooses a strategy for each (`choose`), shards are placed by load
(`place`), and the best candidates are simulated (`search`), at one scale or at several (`scales`).
"""
