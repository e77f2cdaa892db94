"""Topology files: pydantic models of every key that a user can write."""
