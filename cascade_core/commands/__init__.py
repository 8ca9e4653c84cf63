"""The command `cascade-engine`: begin with `cli.py`."""
