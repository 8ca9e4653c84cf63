"""One session's life, from its record to its end: begin with `conductor.py`. `registry.py` has them all."""
