"""Connections to a gRPC port are bounded, in all and by address, and those in play are never cut."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.common.lines import name_of
from tests.services.support.certificates import Authority
from tests.services.support.echo import WAIT_S, Echo, chat, exchange, say, serving
from tests.services.support.idle_lines import (
    NUM_DESCRIPTORS,
    NUM_IDLE,
    few_descriptors,
    idle_lines,
    num_open,
)
from tests.services.support.ports import free_port

ECHO = "tests.services.support.echo_process"
ALONE = [("grpc.use_local_subchannel_pool", 1)]
"""Else channels to one target share a connection."""
US, THEM = "127.0.0.1", "127.0.0.2"


def open_to(port: int, authority: Authority | None = None) -> grpc.aio.Channel:
    """From US, over a connection of its own."""
    if authority is None:
        return grpc.aio.insecure_channel(f"localhost:{port}", ALONE)
    credentials = grpc.ssl_channel_credentials(authority.path.read_bytes())
    return grpc.aio.secure_channel(f"localhost:{port}", credentials, ALONE)


@pytest.mark.parametrize(
    ("is_secure", "kind", "address"),
    [(False, "silent", THEM), (False, "preface", US), (True, "silent", US), (True, "preface", THEM)],
)
async def test_more_idle_connections_than_descriptors(
    tmp_path: Path, is_secure: bool, kind: str, address: str
) -> None:
    """Whoever is in play goes on, from whatever address they come; others come in, and are in play then."""
    port = free_port()
    authority, variables, tls = Authority(tmp_path), {"CASCADE_GRPC_PORT": str(port)}, None
    if is_secure:
        certificate, key = authority.issue("server")
        variables |= {"CASCADE_TLS_CERTIFICATE": str(certificate), "CASCADE_TLS_KEY": str(key)}
        tls = ssl.create_default_context(cafile=authority.path)
        tls.set_alpn_protocols(["h2"])
    trusted = authority if is_secure else None
    async with (
        asyncio.timeout(3 * WAIT_S),
        few_descriptors(ECHO, variables),
        open_to(port, trusted) as channel,
        open_to(port, trusted) as other,
    ):
        playing = chat(channel, wait_for_ready=True, timeout=3 * WAIT_S)
        assert await exchange(playing, "one") == "one"
        async with idle_lines(kind, NUM_IDLE, port, tls, address) as lines:
            assert await exchange(playing, "two") == "two"
            if address != US:  # else only once the burst is over
                assert await say(other, "hello", wait_for_ready=True) == "hello"
            while await num_open(lines) > NUM_DESCRIPTORS / 4:
                pass
            assert await say(other, "hello again", wait_for_ready=True) == "hello again"
            assert await exchange(playing, "three") == "three"
        assert await exchange(playing, "four") == "four"


async def test_calls_on_too_many_connections_of_one_address() -> None:
    """Those beyond are refused, and may come when others have gone; further calls on the first go through."""
    async with (
        serving(Echo(), grpc={"max_connections_per_address": 2}) as (server, _),
        AsyncExitStack() as stack,
    ):
        channels = [await stack.enter_async_context(open_to(server.port)) for _ in range(3)]
        streams = [chat(channel) for channel in channels[:2]]
        for stream in streams:
            assert await exchange(stream, "a") == "a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(channels[2], "b")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await say(channels[0], "c") == "c"
        await exchange(streams[1], "bye")
        assert await say(channels[2], "d", wait_for_ready=True) == "d"


@pytest.mark.parametrize(
    ("settings", "num_left"),
    [
        ({"max_connections_per_address": 4}, 4),
        ({"max_connections_per_address": 4, "trusted_proxies": ["127.0.0.0/30"]}, 20),
        ({"max_connections": 16}, 14),
        ({"max_connections": 16, "trusted_proxies": ["127.0.0.0/30"]}, 14),
    ],
)
async def test_what_is_bounded(settings: Any, num_left: int) -> None:
    async with (
        serving(Echo(), grpc=settings) as (server, _),
        idle_lines("preface", 20, server.port) as lines,
        asyncio.timeout(WAIT_S),
    ):
        while await num_open(lines) > num_left:
            pass
        assert await num_open(lines) == num_left


async def test_an_idle_connection_is_closed_after_a_while() -> None:
    async with (
        serving(Echo(), grpc={"max_idle_s": 0.3}) as (server, channel),
        idle_lines("preface", 3, server.port) as lines,
        asyncio.timeout(WAIT_S),
    ):
        stream = chat(channel)
        await exchange(stream, "a")
        while await num_open(lines):
            pass
        assert await exchange(stream, "b") == "b"


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("ipv4:192.0.2.1:4711", ("192.0.2.1", 4711)),
        ("ipv6:%5B2001:db8::1%5D:4711", ("2001:db8::1", 4711)),
        ("ipv6:[::1]:80", ("::1", 80)),
        ("ipv6:[::ffff:192.0.2.1]:80", ("192.0.2.1", 80)),
        ("unix:/tmp/socket", None),
        ("", None),
    ],
)
def test_how_grpc_names_the_other_side(peer: str, name: tuple[str, int] | None) -> None:
    assert name_of(peer) == name
