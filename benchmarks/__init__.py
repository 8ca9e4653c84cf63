"""Commands that measure, and the tables they wrote."""
