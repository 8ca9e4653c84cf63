"""Child processes. The services use it too: it imports nothing of the client."""
