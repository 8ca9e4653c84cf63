"""Connections that somebody opens and leaves, more than a service has descriptors: silent, or with the first
words of HTTP/2 alone."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from tests.services.support.system import ROOT, clean_environment

NUM_DESCRIPTORS, NUM_IDLE = 400, 600

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""With the client's empty SETTINGS: the handshake is over then."""
WAIT_S = 20.0
Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def silent(address: str, port: int, tls: ssl.SSLContext | None) -> Line:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))


async def greeted(address: str, port: int, tls: ssl.SSLContext | None) -> Line:
    """Over TLS, where the server speaks that."""
    line = await asyncio.open_connection(
        "127.0.0.1",
        port,
        local_addr=(address, 0),
        ssl=tls,
        server_hostname="localhost" if tls else None,
    )
    line[1].write(PREFACE)
    return line


KINDS: dict[str, Callable[[str, int, ssl.SSLContext | None], Awaitable[Line]]] = {
    "silent": silent,
    "preface": greeted,
}


@asynccontextmanager
async def idle_lines(
    kind: str, number: int, port: int, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1"
) -> AsyncIterator[list[Line]]:
    """So many at once, from that address; those that are refused at once are not among them."""
    places = asyncio.Semaphore(50)

    async def connect() -> Line:
        async with places:
            return await asyncio.wait_for(KINDS[kind](address, port, tls), WAIT_S)

    tried = await asyncio.gather(*(connect() for _ in range(number)), return_exceptions=True)
    lines = [line for line in tried if not isinstance(line, BaseException)]
    try:
        yield lines
    finally:
        for _, writer in lines:
            writer.transport.abort()


async def num_open(lines: list[Line]) -> int:
    """How many the server has not closed."""

    async def is_open(reader: asyncio.StreamReader) -> bool:
        try:
            while await asyncio.wait_for(reader.read(4096), 0.2):
                pass
        except TimeoutError:
            return True
        except OSError:
            return False
        return False

    return sum(await asyncio.gather(*(is_open(reader) for reader, _ in lines)))


@asynccontextmanager
async def few_descriptors(module: str, variables: Mapping[str, str]) -> AsyncIterator[None]:
    """A service's process, which may open `NUM_DESCRIPTORS` files."""
    command = f"ulimit -n {NUM_DESCRIPTORS}; exec {sys.executable} -m {module}"
    environment = {**clean_environment(), **variables}
    process = await asyncio.create_subprocess_exec("sh", "-c", command, cwd=ROOT, env=environment)
    try:
        yield
    finally:
        process.kill()
        await process.wait()
