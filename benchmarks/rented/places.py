"""Folders of a run, all of them outside git."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Of the checkout."""
PACK = ROOT / "out" / "gpu-pack"
"""Wheels that travel; `make gpu-pack` fills it."""
OUT = ROOT / "out" / "gpu"
"""What a run leaves: tables and logs."""
PACKAGES = ROOT / "out" / "gpu-packages"
"""Where the wheels are installed on the rented machine."""
