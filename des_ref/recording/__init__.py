"""Records what a training step really did, as a trace."""
