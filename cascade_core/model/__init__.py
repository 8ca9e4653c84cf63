"""The causal Wan DiT (`model.py`), its sampler and its text encoder. It knows no ranks."""
