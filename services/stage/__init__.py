"""The stage service: one model on the GPUs of one pod; prompts in, clean latent blocks out."""
