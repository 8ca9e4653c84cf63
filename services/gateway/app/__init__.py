"""A gateway put together (`assembly.py`), and the doors of its services."""
