"""Equivalent substitutions, one operator a file: formula, local partial, finish and plain reference.

f(w; x) = g( f_1(w_1; x) + ... + f_N(w_N; x) ): worker p applies `partial` to the rows it owns, one collective sums the
partials, and `finish` is g. `reference` computes f on one process as a textbook would, for tests and the certificate.
base.py defines the interface.
"""
