"""Devices, host cores, counters and the record of a run: the parts that every network model shares."""
