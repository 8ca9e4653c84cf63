"""Where tests find what is no module."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""Of the repository."""
