"""A training run on a data set: its samples, its loop, its scores, and the figures it ends with."""
