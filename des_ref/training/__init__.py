"""A run of the trainer: its command line, its loop, what it is scored by, and the figures it ends with."""
