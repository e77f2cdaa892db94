"""A trace of training steps: recorded ops, with the phase and the size formulas that the strategy's plan gives them."""
