"""One session's life."""
