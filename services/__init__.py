"""The services: stage, decoder and gateway, one process each, and the web, a client of the gateway that runs
in its process; what they share is in `common`."""
