"""Samples: readers and generators that all produce a `Batch` of 64-bit ids."""
