"""The services: stage, decoder and gateway, one process each, and the web, a client of the gateway, in its
process or in one of its own; what they share is in `common`."""
