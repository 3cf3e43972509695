"""Benchmarks of every use of RTX beside its peers: `python -m benchmarks`."""
