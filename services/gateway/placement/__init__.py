"""Who gets which place, and when."""
