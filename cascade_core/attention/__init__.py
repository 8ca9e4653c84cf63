"""Attention over the clean cache and the blocks in flight."""
