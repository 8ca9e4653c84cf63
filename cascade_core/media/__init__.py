"""Latents to frames to MP4."""
