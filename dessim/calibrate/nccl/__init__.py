"""Transports from readings of nccl-tests: reading logs, fitting the constants of NCCL's steps, writing a profile."""
