"""Whom the gateway that has a session takes for the caller, when another gateway asks it for a client."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cascade.v1 import session_pb2 as pb
from cascade_core.config import make
from services.common.settings import AuthSettings, ServerTlsSettings
from services.gateway.app.assembly import running
from services.gateway.base.settings import PeerSettings
from tests.services.support.certificates import Authority
from tests.services.support.gateway_support import (
    VIEWER,
    Tenant,
    fails,
    gateway_settings,
    write_keys,
)
from tests.services.support.ports import free_port
from tests.services.support.redis_support import RedisServer, needs_redis

pytestmark = needs_redis


@asynccontextmanager
async def two(redis: RedisServer, folder: Path, modes: list[str]) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Channels, each with the client's certificate, to two gateways that ask for one."""
    authority = Authority(folder / "ca")
    own, client = authority.issue("gateway"), authority.issue("client")
    tls = {"certificate": own[0], "key": own[1], "ca": authority.path}
    auth: dict[str, Any] = {"modes": modes}
    if "api_keys" in modes:
        write_keys(folder / "keys.toml", ["acme"])
        auth["keys_file"] = folder / "keys.toml"
    (folder / "token").write_bytes(bytes(range(32)))
    settings = gateway_settings([], [], redis_url=redis.url, token_key_file=folder / "token")
    settings = replace(
        settings,
        tls=make(ServerTlsSettings, tls),
        auth=make(AuthSettings, auth),
        peer=make(PeerSettings, {"tls": True, **tls}),
    )
    credentials = grpc.ssl_channel_credentials(
        authority.path.read_bytes(), client[1].read_bytes(), client[0].read_bytes()
    )
    async with AsyncExitStack() as stack:
        channels = []
        for _ in range(2):
            one = replace(settings, grpc=replace(settings.grpc, port=free_port()))
            server, _ = await stack.enter_async_context(running(one))
            channel = grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials)
            channels.append(await stack.enter_async_context(channel))
        yield channels


@pytest.mark.parametrize("modes", [["mtls"], ["mtls", "api_keys"]])
async def test_a_client_with_a_certificate_alone_is_served_by_the_other_gateway(
    redis: RedisServer, tmp_path: Path, modes: list[str]
) -> None:
    """Its tenant, as that of all certificates, is `default`; a key counts for more, at either gateway."""
    async with two(redis, tmp_path, modes) as channels:
        near, far = (Tenant(channel, None) for channel in channels)
        name = await near.name()
        assert (await far.get(name)).name == name
        await far.pause(name)
        async with far.attached(name) as stream, far.attached(name, role=VIEWER) as viewer:
            assert stream.kinds[0] == viewer.kinds[0] == "attached"
            token = await far.token(name, role="CONTROLLER")
        async with far.attached(resume_token=token) as stream:
            assert stream.kinds[0] == "attached"
        if "api_keys" in modes:
            acme = Tenant(channels[1], "acme")
            with fails("NOT_FOUND SESSION_NOT_FOUND"):
                await acme.get(name)
            theirs = await Tenant(channels[0], "acme").name()
            assert (await acme.get(theirs)).name == theirs
            with fails("NOT_FOUND SESSION_NOT_FOUND"):
                await far.get(theirs)
            with fails("NOT_FOUND SESSION_NOT_FOUND"):
                async with far.attached(theirs):
                    pass
        assert (await far.delete(name)).end.reason == pb.END_REASON_DELETED


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", ""),
        ("tls.certificate peer.tls", ""),
        ("tls.certificate tls.ca peer.tls peer.certificate", ""),
        ("tls.certificate", "TLS is on at its port (tls.certificate), and off for calls (peer.tls)"),
        ("peer.tls", "TLS is off at its port (tls.certificate), and on for calls (peer.tls)"),
        ("tls.certificate tls.ca peer.tls", "asks for client certificates (tls.ca), and calls bring none"),
    ],
)
@pytest.mark.parametrize("has_redis", [True, False])
async def test_gateways_that_cannot_call_each_other_say_so_at_the_start(
    redis: RedisServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: str,
    told: str,
    has_redis: bool,
) -> None:
    """One without Redis has no others."""
    authority = Authority(tmp_path / "ca")
    own, key = authority.issue("gateway")
    pair = {"certificate": own, "key": key}
    (tmp_path / "token").write_bytes(bytes(range(32)))
    shared = {"redis_url": redis.url, "token_key_file": tmp_path / "token"} if has_redis else {}
    settings = replace(
        gateway_settings([], [], **shared),
        tls=make(
            ServerTlsSettings,
            (pair if "tls.certificate" in given else {})
            | ({"ca": authority.path} if "tls.ca" in given else {}),
        ),
        peer=make(
            PeerSettings,
            {"tls": "peer.tls" in given} | (pair if "peer.certificate" in given else {}),
        ),
    )
    async with running(settings):
        pass
    out = capsys.readouterr().out
    assert ("other gateways cannot call this one" in out) == bool(told and has_redis)
    assert not (told and has_redis) or told in out
