"""Rows of 64-bit ids: where they live, how they start, how they learn."""
