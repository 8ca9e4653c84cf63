"""A line between two network namespaces: `python -m tests.browser.line HERE THERE MS LOSS`.

Each way takes MS milliseconds and loses a share LOSS of the packets. It stands for the kernel's netem, which
many machines lack; both ends are interfaces `wire`. Says `ready` once they are there.
"""

import ctypes
import fcntl
import heapq
import os
import random
import selectors
import struct
import sys
import time
from contextlib import suppress

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MAX_PACKET = 65536
MAX_UNDER_WAY = 10_000
SEED = 0


def open_end(namespace: str) -> int:
    """The file of an interface `wire` there: what is read was sent into it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as place:
        if libc.setns(place.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns: {namespace}")
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", b"wire", IFF_TUN | IFF_NO_PI))
    return end


def carry(ends: tuple[int, int], delay_s: float, loss: float) -> None:
    """For ever."""
    chance = random.Random(SEED)
    under_way: list[tuple[float, int, int, bytes]] = []
    number = 0
    with selectors.DefaultSelector() as selector:
        for end, other in (ends, ends[::-1]):
            selector.register(end, selectors.EVENT_READ, other)
        while True:
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            for key, _ in selector.select(wait):
                packet = os.read(key.fd, MAX_PACKET)
                if chance.random() >= loss and len(under_way) < MAX_UNDER_WAY:
                    number += 1
                    heapq.heappush(under_way, (time.monotonic() + delay_s, number, key.data, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, other, packet = heapq.heappop(under_way)
                with suppress(OSError):  # as on any line: the interface is down, or its queue is full
                    os.write(other, packet)


if __name__ == "__main__":
    here, there, milliseconds, share = sys.argv[1:]
    both = open_end(here), open_end(there)
    print("ready", flush=True)
    carry(both, float(milliseconds) / 1000, float(share))
