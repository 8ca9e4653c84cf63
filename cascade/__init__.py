"""Cascade's contracts as Python; generated from `proto/` by `make proto`."""

__version__ = "0.1.0"
