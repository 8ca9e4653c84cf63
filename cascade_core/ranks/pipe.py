"""How a process and the child it started speak: pickled messages, each with its length in front, over a
socket pair. It has no address that others could connect to.
"""

import asyncio
import os
import pickle
import queue
import socket
import struct
import threading
from typing import Any, BinaryIO, Generic, TypeVar

HEADER = struct.Struct("!Q")

Command = TypeVar("Command")
Reply = TypeVar("Reply")


def pack(message: object) -> bytes:
    """A message with its length in front."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


async def read_message(stream: asyncio.StreamReader) -> Any:
    """The child's next message; asyncio.IncompleteReadError when it is gone."""
    size = HEADER.unpack(await stream.readexactly(HEADER.size))[0]
    return pickle.loads(await stream.readexactly(size))


class ChildEnd(Generic[Command, Reply]):
    """The child's end. Where the parent is gone the child ends at once, whatever its other threads do."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._stream = self._socket.makefile("rb")
        self._lock = threading.Lock()
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        """Bounded by the parent, which sends only a little ahead."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def send(self, reply: Reply) -> None:
        """From any thread."""
        data = pack(reply)
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            os._exit(0)  # the parent closed its end, or died

    def _read(self) -> None:
        try:
            while True:
                size = HEADER.unpack(read_exactly(self._stream, HEADER.size))[0]
                self.commands.put(pickle.loads(read_exactly(self._stream, size)))
        except (EOFError, OSError):
            os._exit(0)


def read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
