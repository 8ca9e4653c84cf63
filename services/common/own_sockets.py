"""The connections of this process to one of its ports, as the system knows them, whoever accepted them."""

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from services.common.addresses import network_of, parse

FOLDERS = (Path("/proc/self/fd"), Path("/dev/fd"))
"""Where a process sees its descriptors: Linux, others."""
FAMILIES = (socket.AF_INET, socket.AF_INET6)

Name = tuple[str, int]
"""Address and port of the other side."""


@dataclass(frozen=True)
class Line:
    """One connection."""

    descriptor: int
    inode: int
    """Of the socket: the descriptor may be another's at the next look."""
    name: Name
    network: str
    """What counts as its address."""

    def shut_down(self) -> None:
        """Both sides learn that it is over; whoever accepted it closes it. By a descriptor of our own, since
        theirs may be closed and given anew meanwhile."""
        with suppress(OSError):
            descriptor = os.dup(self.descriptor)
            try:
                if os.fstat(descriptor).st_ino == self.inode:
                    shut_down(descriptor)
            finally:
                os.close(descriptor)


class OwnSockets:
    """Of one port."""

    def __init__(self, port: int) -> None:
        """Raises FileNotFoundError where a process does not see its descriptors."""
        self._folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
        if self._folder is None:
            raise FileNotFoundError(", ".join(map(str, FOLDERS)))
        self._port = port
        self._known: dict[tuple[int, int], Line | None] = {}
        """By descriptor and inode; None: one that is not the port's."""

    def lines(self, at_least: int) -> list[Line]:
        """The oldest first. Empty where the process has fewer descriptors than `at_least`, which is cheap to
        know, or not even one left to look with."""
        assert self._folder
        try:
            descriptors = [int(name) for name in os.listdir(self._folder)]
        except OSError:
            return []
        if len(descriptors) < at_least:
            return []
        present = {key for descriptor in descriptors if (key := key_of(descriptor))}
        for gone in self._known.keys() - present:
            del self._known[gone]
        for new in sorted(present - self._known.keys()):
            self._known[new] = self._read(*new)
        return [line for line in self._known.values() if line]

    def _read(self, descriptor: int, inode: int) -> Line | None:
        try:
            found = socket.socket(fileno=descriptor)
        except OSError:
            return None
        try:
            if found.family not in FAMILIES or found.getsockname()[1] != self._port:
                return None
            host, number = found.getpeername()[:2]
        except OSError:  # it listens, or is over
            return None
        finally:
            found.detach()
        return Line(descriptor, inode, (plain(host), number), network_of(host))


def key_of(descriptor: int) -> tuple[int, int] | None:
    """None: no socket."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return (descriptor, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def shut_down(descriptor: int) -> None:
    found = socket.socket(fileno=descriptor)
    try:
        found.shutdown(socket.SHUT_RDWR)
    finally:
        found.detach()


def plain(host: str) -> str:
    """An address in the one form that we compare: gRPC and the system write some of them differently."""
    return str(parse(host) or host)
