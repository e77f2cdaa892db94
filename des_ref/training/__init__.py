"""A run of the trainer: its loop, what it is scored by, and the figures it ends with."""
