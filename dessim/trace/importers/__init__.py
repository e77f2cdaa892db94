"""Traces that other tools wrote: one file a format."""
