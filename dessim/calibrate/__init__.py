"""Calibration: fit the overheads and rates of a transport to measurements."""
