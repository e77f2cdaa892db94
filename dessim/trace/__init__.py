"""Recorded traces: their schema, files, checks and importers."""
