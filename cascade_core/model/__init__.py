"""The causal Wan DiT, its sampler and its text encoder."""
