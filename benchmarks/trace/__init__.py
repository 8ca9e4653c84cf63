"""What the rank-side code asks of a GPU, counted without one: begin with `__main__.py`."""
