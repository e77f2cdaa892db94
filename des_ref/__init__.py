"""The trainer: DES and its rivals in PyTorch. Start it with `torchrun -m des_ref.train`; see that file."""
