"""Measurements of one device, and a device part with their results: `python -m des_ref.bench_ops`."""
