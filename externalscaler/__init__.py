"""KEDA's interface for external scalers as Python; generated from `proto/externalscaler` by `make proto`."""
