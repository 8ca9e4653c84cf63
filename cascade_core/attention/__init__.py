"""Attention over the clean cache and the blocks in flight: begin with `joint_attention.py`. Collectives are
in `exchange.py` alone."""
