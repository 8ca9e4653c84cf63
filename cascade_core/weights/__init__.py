"""Checkpoints of every form, found and read without executing code."""
