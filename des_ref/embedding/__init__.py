"""Embedding rows of 64-bit ids: storage, initial values, lifetime and optimizers."""
