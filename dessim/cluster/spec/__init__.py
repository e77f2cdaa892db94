"""Topology files: pydantic models of every key that a user can write, and how they become links and fabrics."""
