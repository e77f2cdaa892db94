"""dessim: which strategy, fabric and scale for training recommenders with huge sparse layers."""
