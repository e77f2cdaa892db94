"""Traces: what was recorded, on the disk and in memory."""
