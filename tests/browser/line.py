"""A line between two network namespaces: `python -m tests.browser.line HERE THERE MS LOSS KBIT`.

Each way takes MS milliseconds, loses a share LOSS of the packets and carries KBIT kbit/s (0: any). It stands
for the kernel's netem, which many machines lack; both ends are interfaces `wire`. Says `ready` once they are
there.
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
MAX_QUEUE_S = 0.25
"""A packet that would have to wait for longer to be sent is lost, as in a router."""
SEED = 0


def enter(namespace: str) -> None:
    """This thread, and what it starts from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as place:
        if libc.setns(place.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns: {namespace}")


def open_end(namespace: str) -> int:
    """The file of an interface `wire` there: what is read was sent into it."""
    enter(namespace)
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", b"wire", IFF_TUN | IFF_NO_PI))
    return end


def carry(ends: tuple[int, int], delay_s: float, loss: float, bytes_per_s: float) -> None:
    """For ever."""
    chance = random.Random(SEED)
    under_way: list[tuple[float, int, int, bytes]] = []
    free_at = dict.fromkeys(ends, 0.0)
    number = 0
    with selectors.DefaultSelector() as selector:
        for end, other in (ends, ends[::-1]):
            selector.register(end, selectors.EVENT_READ, other)
        while True:
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            for key, _ in selector.select(wait):
                packet, now = os.read(key.fd, MAX_PACKET), time.monotonic()
                sent_at = max(now, free_at[key.fd]) + len(packet) / bytes_per_s
                if sent_at - now > MAX_QUEUE_S or len(under_way) >= MAX_UNDER_WAY:
                    continue
                free_at[key.fd] = sent_at
                if chance.random() >= loss:
                    number += 1
                    heapq.heappush(under_way, (sent_at + delay_s, number, key.data, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, other, packet = heapq.heappop(under_way)
                with suppress(OSError):  # as on any line: the interface is down, or its queue is full
                    os.write(other, packet)


if __name__ == "__main__":
    here, there, milliseconds, share, kbit_per_s = sys.argv[1:]
    both = open_end(here), open_end(there)
    print("ready", flush=True)
    carry(both, float(milliseconds) / 1000, float(share), 125 * float(kbit_per_s) or float("inf"))
