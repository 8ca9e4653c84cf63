"""A simulated day of a cluster that scales by what the gateway says: real gateway code, virtual time."""
