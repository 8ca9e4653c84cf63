"""All services on this machine, for `cascade up`."""
