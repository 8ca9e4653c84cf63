"""File descriptors are what connections use up: no port takes more than its share of them."""

import resource
from contextlib import suppress

SHARE_OF_GRPC, SHARE_OF_HTTP = 1 / 2, 1 / 4
"""The rest is for Redis, other services, files and child processes."""
SHARE_OF_ADDRESS = 1 / 2
"""What one address may have of a port's share."""


def limit() -> int:
    """How many this process may have open: `ulimit -n`."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else soft


def raise_limit() -> None:
    """To what the system lets this process have; a shell's own limit is often low."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS has less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def within(wanted: int, share: float) -> int:
    """What is wanted, at most that share of them, and at least one."""
    return max(1, min(wanted, int(limit() * share)))
