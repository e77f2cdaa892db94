"""Fabrics, one a file: the switches and cables that join the NICs, and the routes between them.

Each module has one `build` function, which adds its switches and links to a builder. It returns the fabric and the
vertex to which each NIC is attached.
"""
