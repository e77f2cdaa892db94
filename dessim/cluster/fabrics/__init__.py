"""Fabric generators, one a file: how the NICs are joined.

Each module has one `build` function that adds its switches and links and returns the fabric.
"""
