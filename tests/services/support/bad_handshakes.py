"""Connections to a TLS port whose handshake fails, many of them, in the four ways there are."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

AT_ONCE = 1000
END_S = 30.0
"""For a server to give up on one."""
TRUSTING = ssl.create_default_context()
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing is cutting."""


async def silent(port: int) -> None:
    """Says nothing until the server has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), END_S)
    writer.close()


async def garbage(port: int) -> None:
    """Plain HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), END_S)
    writer.close()


async def cut(port: int) -> None:
    """After its first words."""
    words = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        TRUSTING.wrap_bio(ssl.MemoryBIO(), words, server_hostname="localhost").do_handshake()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.write(words.read())
    with suppress(ConnectionError):
        await asyncio.wait_for(reader.read(1), END_S)
    writer.transport.abort()


def wrong_authority(authority: Path) -> Callable[[int], Awaitable[None]]:
    """Trusts somebody else, and says so when it has seen the certificate."""
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2"])

    async def connect(port: int) -> None:
        with suppress(ssl.SSLError, ConnectionError):
            address = ("127.0.0.1", port)
            _, writer = await asyncio.open_connection(*address, ssl=context, server_hostname="localhost")
            writer.close()

    return connect


def kinds(stranger: Path) -> dict[str, Callable[[int], Awaitable[None]]]:
    """`stranger`: the certificate of an authority that did not sign the server's."""
    return {"silent": silent, "garbage": garbage, "wrong authority": wrong_authority(stranger), "cut": cut}


async def many(connect: Callable[[int], Awaitable[None]], port: int, number: int) -> int:
    """So many, some at once; returns how many were not even accepted."""
    places, refused = asyncio.Semaphore(AT_ONCE), 0

    async def one() -> None:
        nonlocal refused
        async with places:
            try:
                await connect(port)
            except OSError:
                refused += 1

    await asyncio.gather(*(one() for _ in range(number)))
    return refused
