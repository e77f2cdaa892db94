"""Measurements of one device, and the device part that they make: `python -m des_ref.bench_ops`."""
