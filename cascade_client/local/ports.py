"""Ports of this machine for `cascade up`."""

import errno
import os
import socket
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass

from cascade_client.console import CommandFailed

HOST = "127.0.0.1"
"""Of what only we call."""
NAME = "localhost"
"""Of what people call: 127.0.0.1, ::1 or both, as the machine has it."""
HTTP_VARIABLE = "CASCADE_HTTP_PORT"
DEFAULT_HTTP_PORT = 8080
LOOPBACK = ((socket.AF_INET, HOST), (socket.AF_INET6, "::1"))
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True)
class HttpPort:
    """Where the first gateway serves HTTP; the others follow."""

    number: int | None = DEFAULT_HTTP_PORT
    """0: any free ones. None: no HTTP."""
    source: str | None = None
    """Who asked for it, such as `--http-port`. None: nobody, so another will do where it is taken."""


def wanted_http(option: HttpPort | None) -> HttpPort:
    """The option, else the environment, else 8080. Raises CommandFailed."""
    text = os.environ.get(HTTP_VARIABLE, "")
    if option or not text:
        return option or HttpPort()
    if not text.isdigit() or int(text) > 65535:
        raise CommandFailed(f"{HTTP_VARIABLE}: {text!r} is not a port, 0 to 65535")
    return HttpPort(int(text), HTTP_VARIABLE)


def http_ports(
    wanted: HttpPort, count: int, spare: list[int], used: Collection[int] = ()
) -> list[int | None]:
    """One for each gateway, none of `used`; `spare`: free ones, which are taken from it. Raises
    CommandFailed."""
    if wanted.number is None:
        return [None] * count
    found: list[int | None] = []
    for port in range(wanted.number, wanted.number + count):
        if wanted.number and port not in used and is_free(port):
            found.append(port)
        elif wanted.number and wanted.source:
            ways = "choose another, 0 for any free one, or --http-port off"
            raise CommandFailed(f"{wanted.source}: port {port} is taken: {ways}")
        else:
            found.append(spare.pop())
    return found


def free_ports(count: int) -> list[int]:
    """Any, all different."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            holder = stack.enter_context(socket.socket())
            holder.bind((HOST, 0))
            found.append(int(holder.getsockname()[1]))
        return found


def is_free(port: int) -> bool:
    """At both loopback addresses; one that the machine lacks takes nobody's port."""
    return all(can_bind(family, host, port) for family, host in LOOPBACK)


def can_bind(family: int, host: str, port: int) -> bool:
    try:
        with socket.socket(family) as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((host, port))
    except OverflowError:
        return False
    except OSError as error:
        return error.errno in ABSENT
    return True
