"""Ports for servers that must know theirs before they start: each test process has a range of its own, below
the ports that the kernel gives to connections, and gives none of it twice while others are left."""

import itertools
import os
import socket

import pytest

FIRST, EACH, NUM_RANGES = 20_000, 2_000, 6
_numbers = itertools.count(os.getpid())


def lacks_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return True
    return False


needs_ipv6 = pytest.mark.skipif(lacks_ipv6(), reason="::1 cannot be bound on this machine")


def free_port() -> int:
    """Of 127.0.0.1."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % NUM_RANGES
    for number in itertools.islice(_numbers, EACH):
        port = FIRST + EACH * worker + number % EACH
        with socket.socket() as line:
            try:
                line.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no port of {FIRST + EACH * worker} and the next {EACH} is free")
