"""Services as child processes, for `cascade up`."""
