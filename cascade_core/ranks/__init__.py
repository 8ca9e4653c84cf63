"""The rank processes: what travels to them, and what they do with it."""
