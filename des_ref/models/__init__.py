"""A model file (dessim/workload/models) turned into torch modules."""
