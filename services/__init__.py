"""The services: stage, decoder and gateway, one process each; what they share is in `common`."""
