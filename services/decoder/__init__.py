"""The decoder service: clean latent blocks in, encoded video segments out."""
