"""Clients that want too much: of connections, messages, answers, time."""

import asyncio
import socket
import struct
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
import websockets

from services.web.uvicorn_private import BoundedProtocol
from tests.services.support.gateway_support import WAIT_S, until
from tests.services.support.http_support import client, create, http_town, problem
from tests.services.support.video_support import Browser, open_socket, web_town
from tests.services.web.test_safety import open_line, rest

MIB = 2**20
HANDSHAKE = (
    b"GET /v1/sessions/a/connect HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: cascade.v1\r\n\r\n"
)
TEXT, CONTINUED, PING, FINAL = 1, 0, 9, 0x80


def frame(kind: int, content: bytes = b"") -> bytes:
    """Masked with zeros."""
    assert len(content) < 126
    return struct.pack(">BB4x", kind, 0x80 | len(content)) + content


async def raw_socket(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket whose client is this test."""
    reader, writer = await open_line(url)
    writer.write(HANDSHAKE)
    async with asyncio.timeout(WAIT_S):
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101")
    return reader, writer


async def poured(writer: asyncio.StreamWriter, content: bytes) -> int:
    """Bytes that went out until the other side ended it."""
    num_bytes = 0
    async with asyncio.timeout(WAIT_S):
        try:
            while True:
                writer.write(content)
                await writer.drain()
                num_bytes += len(content)
        except ConnectionError:
            return num_bytes


async def test_pings_whose_answers_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stop being taken when the answers do: what went out lies in the system's own buffers."""
    monkeypatch.setattr("services.web.websocket.MESSAGE_DEADLINE_S", WAIT_S)
    async with http_town(http={"write_timeout_s": 0.3}) as place:
        _, writer = await raw_socket(place.town.url)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        assert await poured(writer, frame(FINAL | PING, b"p" * 125) * 512) < 32 * MIB
        assert (await place.visitor.get("/healthz")).status_code == 200
        writer.close()


async def test_a_message_in_endless_pieces() -> None:
    async with http_town() as place:
        _, writer = await raw_socket(place.town.url)
        writer.write(frame(TEXT))
        await poured(writer, frame(CONTINUED) * 512)
        assert (await place.visitor.get("/healthz")).status_code == 200
        writer.close()


async def test_a_message_that_is_announced_too_large() -> None:
    async with http_town() as place:
        reader, writer = await raw_socket(place.town.url)
        writer.write(struct.pack(">BBQ4x", FINAL | TEXT, 0xFF, 2**40))
        assert struct.pack(">H", 1009) in await rest(reader)
        writer.close()


async def test_many_slow_clients_are_closed_and_hold_nobody_up() -> None:
    """A byte now and then does not buy time."""

    async def drip(url: str) -> bytes:
        reader, writer = await open_line(url)
        ending = asyncio.create_task(rest(reader))
        for byte in b"GET /healthz HTTP/1.1\r\nX-Slow: " + b"a" * 10_000:
            if ending.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        writer.close()
        return await ending

    async with http_town(http={"header_timeout_s": 0.5}) as place:
        slow = [asyncio.create_task(drip(place.town.url)) for _ in range(50)]
        assert (await place.visitor.get("/healthz")).status_code == 200
        assert await asyncio.gather(*slow) == [b""] * 50


async def test_one_address_has_so_many_connections() -> None:
    async with web_town(http={"max_connections_per_address": 3}) as place, AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(open_socket(place, "sessions/a"))
        with pytest.raises((OSError, websockets.InvalidMessage)):
            await open_socket(place, "sessions/a")
        await stack.aclose()
        await until_answered(place.web)


async def until_answered(url: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                async with client(url) as web:
                    assert (await web.get("/healthz")).status_code == 200
                    return
            except httpx2.TransportError:
                await asyncio.sleep(0.05)


async def test_clients_of_a_trusted_proxy_are_counted_one_by_one() -> None:
    settings: dict[str, Any] = {"max_connections_per_address": 2, "trusted_proxies": ["127.0.0.0/8"]}
    one, other = ({"x-forwarded-for": f"6.6.6.6, 192.0.2.{number}"} for number in (1, 2))
    async with web_town(http=settings) as place, AsyncExitStack() as stack:
        for headers in (one, one, other, other):
            socket = open_socket(place, "sessions/a", additional_headers=headers)
            await stack.enter_async_context(socket)
        async with client(place.web) as web:
            refused = await web.get("/v1/sessions", headers=one)
            problem(refused, 429, "OVERLOADED")
        with pytest.raises(websockets.InvalidStatus) as caught:
            await open_socket(place, "sessions/a", additional_headers=other)
        assert caught.value.response.status_code == 429


async def test_nobody_guesses_keys_for_long() -> None:
    """Ten seconds' worth at once, then as slowly as the setting says; others are not held up."""
    settings = {"max_anonymous_per_s": 0.2, "trusted_proxies": ["127.0.0.1/32"]}
    async with http_town(tenants=("acme",), http=settings) as place:
        web = place.visitor
        for number in range(3):
            guess = {"authorization": f"Bearer guess-{number}"} if number % 2 else {}
            problem(await web.get("/v1/sessions", headers=guess), 401, "UNAUTHENTICATED")
        refused = await web.get("/v1/sessions", headers={"authorization": "Bearer guess"})
        assert problem(refused, 429, "RATE_LIMITED")["retryAfterSeconds"] > 0
        assert (int(refused.headers["retry-after"]) > 0, refused.headers["connection"]) == (True, "close")
        assert (await web.get("/healthz")).status_code == 200
        async with client(place.town.url, "acme", **{"x-forwarded-for": "192.0.2.1"}) as known:
            for _ in range(20):
                assert (await known.get("/v1/sessions")).status_code == 200
            await create(known)


async def test_a_header_alone_is_no_credential() -> None:
    """What is refused before a credential is looked at, or needs none, costs as much with as without."""
    made_up = {"authorization": "Bearer guess", "content-type": "application/json"}
    for path, content, status in (("/v1/sessions", b"{", 400), ("/openapi.json", None, 200)):
        async with http_town(tenants=("acme",), http={"max_anonymous_per_s": 0.2}) as place:
            for _ in range(3):
                verb = "POST" if content else "GET"
                answer = await place.visitor.request(verb, path, content=content, headers=made_up)
                assert answer.status_code == status
            problem(await place.visitor.get("/v1/sessions", headers=made_up), 429, "RATE_LIMITED")


async def test_guesses_over_websockets_count_too() -> None:
    async with web_town(http={"max_anonymous_per_s": 0.2}) as place:
        for _ in range(3):
            async with open_socket(place, "sessions/a") as socket:
                browser = Browser(socket, acks=False)
                await browser.send(attach={}, credential="guess")
                await browser.until_closed()
                assert browser.code == 4401
        with pytest.raises(websockets.InvalidStatus) as caught:
            await open_socket(place, "sessions/a")
        assert caught.value.response.status_code == 429


async def test_few_bytes_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than asyncio tells of by default: the connection would be closed, and never end."""
    made: list[BoundedProtocol] = []
    begin = BoundedProtocol.connection_made

    def note(protocol: BoundedProtocol, transport: Any) -> None:
        made.append(protocol)
        begin(protocol, transport)

    monkeypatch.setattr(BoundedProtocol, "connection_made", note)
    async with http_town(http={"write_timeout_s": 0.3, "keep_alive_s": 1}) as place:
        parts = httpx2.URL(place.town.url)
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect((parts.host, parts.port))
            await until(lambda: made)
            (protocol,) = made
            for _ in range(10_000):
                if protocol.transport.get_write_buffer_size():
                    break
                line.send(b"GET /static/page.css HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: protocol.cycle and protocol.cycle.response_complete)
                await asyncio.sleep(0.001)
            assert 0 < protocol.transport.get_write_buffer_size() < 64 * 1024
            await until(lambda: protocol not in protocol.connections)
