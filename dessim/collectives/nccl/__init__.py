"""NCCL's collectives: what NCCL chooses, what each step costs, and the bytes that links carry."""
