"""torch modules built from a model file (dessim/workload/models), objectives and dense optimizers."""
