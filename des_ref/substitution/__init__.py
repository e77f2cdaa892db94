"""Equivalent substitutions, one operator a file: the formula, the local partial, the finish, and a plain reference.

f(w; x) = g( f_1(w_1; x) + ... + f_N(w_N; x) ): worker p applies `partial` to the rows it owns, one collective sums the
partials, `finish` is g. `reference` computes f on one process in the way a textbook would, for tests and certificate.
base.py says what an operator offers.
"""
