"""Sockets to listen with, at each address that a name has."""

import contextlib
import errno
import socket

BACKLOG = 1024
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""This machine lacks the address, as where a container knows `localhost` as ::1 and has no IPv6."""


def listen(host: str, port: int) -> list[socket.socket]:
    """At one port of all addresses of the host; `::` takes IPv4 too. 0: any free one. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    reasons: list[OSError] = []
    with contextlib.ExitStack() as stack:
        listeners: list[socket.socket] = []
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            number = port or (listeners[0].getsockname()[1] if listeners else 0)
            try:
                listener = open_one(family, (address[0], number, *address[2:]))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                reasons.append(error)
            else:
                listeners.append(stack.enter_context(listener))
        if not listeners:
            raise reasons[0]
        stack.pop_all()
    return listeners


def open_one(family: int, address: tuple[object, ...]) -> socket.socket:
    """The protocol is named, since asyncio sets TCP_NODELAY by it: without that, each answer waits 40 ms for
    an acknowledgement."""
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
