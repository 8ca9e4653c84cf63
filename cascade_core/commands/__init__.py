"""The command `cascade-engine`."""
