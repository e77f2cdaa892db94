"""The functions that `dessim` exports: each takes names, files or loaded objects, and returns a frozen result.

`dessim/__init__.py` lists the whole public surface, and docs/api.md shows it.
"""
