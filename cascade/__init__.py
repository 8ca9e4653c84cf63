"""Cascade's contracts as Python; generated from `proto/` by `make proto`."""
