"""Sessions under load while everything below them is killed: `python -m benchmarks.chaos`."""
