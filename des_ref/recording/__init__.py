"""Watches torch during a training step: collectives, compute segments, copies, clocks. It knows nothing of plans."""
