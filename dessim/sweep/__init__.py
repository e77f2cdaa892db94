"""Sweeps: one question asked for every point of a grid, on one machine or on many, and resumed where it stopped."""
