"""Calibration: measurements in, transport profiles out."""
