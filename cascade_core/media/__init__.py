"""Latents to frames (`vae.py`, `taehv.py`) to MP4 (`media.py`); `decoding.py` does it beside the engine."""
