"""TLS, other gateways, and the end of a gateway, seen over HTTP."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.common import grpc_port
from services.common.settings import ServerTlsSettings
from services.gateway.app.assembly import Gateway, running
from services.gateway.base.settings import Settings
from services.web.settings import HttpSettings
from tests.services.support.certificates import Authority
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import WAIT_S, Tenant, gateway_settings, open_channel, until
from tests.services.support.http_support import client, create, http_town, problem
from tests.services.support.ports import free_port
from tests.services.support.redis_support import RedisServer


@asynccontextmanager
async def lone(settings: Settings) -> AsyncIterator[int]:
    """The HTTP port of a gateway without machines."""
    async with running(settings) as (server, _):
        assert isinstance(server.service, Gateway)
        assert server.service.http
        yield server.service.http.port


def trusting(ca: Path, pair: tuple[Path, Path] | None = None) -> httpx2.AsyncClient:
    context = ssl.create_default_context(cafile=ca)
    if pair:
        context.load_cert_chain(*pair)
    return httpx2.AsyncClient(verify=context, timeout=WAIT_S, trust_env=False)


async def test_tls_is_that_of_the_gateway_and_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_port, "CHECK_S", 0.02)
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    certificate, key = old.issue("server")
    tls = make(ServerTlsSettings, {"certificate": certificate, "key": key, "ca": old.path})
    settings = replace(gateway_settings([], [], http={}), tls=tls)
    async with lone(settings) as port:
        url = f"https://localhost:{port}/v1/sessions"
        async with trusting(old.path, old.issue("client")) as known:
            answer = await known.get(url)
            assert (answer.status_code, answer.json()["sessions"]) == (200, [])
            assert "strict-transport-security" in answer.headers
        async with trusting(old.path) as stranger:
            with pytest.raises(httpx2.TransportError):
                await stranger.get(url)
        for source, target in zip(
            (*new.issue("server"), new.path), (certificate, key, old.path), strict=True
        ):
            shutil.copy(source, target)
        shutil.copy(new.path, tmp_path / "trusted.pem")
        async with trusting(tmp_path / "trusted.pem", new.issue("client")) as renewed:
            for _ in range(20):  # while the gRPC port, whose client this side is, is renewed as well
                assert (await renewed.get(url)).status_code == 200
                await asyncio.sleep(0.02)
        async with trusting(tmp_path / "trusted.pem", old.issue("late")) as left_behind:
            with pytest.raises(httpx2.TransportError):
                await left_behind.get(url)


async def test_a_client_certificate_is_a_credential(tmp_path: Path) -> None:
    """Of the same caller as over gRPC; no header stands in for it."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    values: dict[str, Any] = {"certificate": certificate, "key": key, "ca": authority.path}
    settings = replace(gateway_settings([], [], http={}), tls=make(ServerTlsSettings, values))
    settings = replace(settings, auth=replace(settings.auth, modes=("mtls",)))
    async with lone(settings) as port:
        url = f"https://localhost:{port}/v1/sessions"
        async with trusting(authority.path, authority.issue("client", ["player.acme"])) as web:
            assert (await web.get(url)).json()["sessions"] == []
        async with trusting(authority.path, authority.issue("nobody", ["x" * 300])) as web:
            assert (await web.get(url)).status_code == 200, "the common name will do"
        async with trusting(authority.path, authority.issue("a\nb", ["x" * 300])) as web:
            forged = {"cascade-certificate-name-bin": "YWRtaW4", "authorization": "Bearer admin"}
            problem(await web.get(url), 401, "UNAUTHENTICATED")
            problem(await web.get(url, headers=forged), 401, "UNAUTHENTICATED")


async def test_any_gateway_answers_for_all(redis: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(bytes(range(32)))
    options: dict[str, Any] = {"redis_url": redis.url, "token_key_file": tmp_path / "token", "http": {}}
    async with FakeStage() as stage, FakeDecoder() as decoder:
        settings = gateway_settings([stage.address], [decoder.address], **options)
        both = [replace(settings, grpc=replace(settings.grpc, port=free_port())) for _ in range(2)]
        async with lone(both[0]) as here, lone(both[1]) as there:
            await until(lambda: stage.num_watchers == decoder.num_watchers == 2)
            async with client(f"http://127.0.0.1:{here}") as near, client(f"http://127.0.0.1:{there}") as far:
                name = (await create(near))["name"]
                assert (await far.get(f"/v1/{name}")).json()["session"]["name"] == name
                paused = await far.post(f"/v1/{name}:pause", json={"requestId": "p"})
                assert paused.json()["session"]["paused"] is True
                assert [item["name"] for item in (await far.get("/v1/sessions")).json()["sessions"]] == [name]
                wrong = await far.post(
                    f"/v1/{name}:switchPrompt",
                    json={"requestId": "s", "promptSwitch": {"text": "a", "atBlock": "0"}},
                )
                assert problem(wrong, 409, "BLOCK_NOT_AHEAD")["metadata"]["next_block"]


async def test_video_of_a_session_that_another_gateway_has(redis: RedisServer, tmp_path: Path) -> None:
    """By token and by credential, while it lasts and afterwards."""
    (tmp_path / "token").write_bytes(bytes(range(32)))
    options: dict[str, Any] = {"redis_url": redis.url, "token_key_file": tmp_path / "token", "http": {}}
    async with FakeStage() as stage, FakeDecoder() as decoder:
        settings = gateway_settings([stage.address], [decoder.address], **options)
        both = [replace(settings, grpc=replace(settings.grpc, port=free_port())) for _ in range(2)]
        async with lone(both[0]), lone(both[1]) as there, open_channel(both[0].grpc.port) as channel:
            await until(lambda: stage.num_watchers == decoder.num_watchers == 2)
            owner = Tenant(channel, None)
            name, other = await owner.name(), await owner.name()
            async with owner.attached(name) as stream, client(f"http://127.0.0.1:{there}") as far:
                await stream.until_segments(3)
                by_token = {"resume_token": await owner.token(name)}
                url = f"/v1/{name}/video.mp4"
                assert (await far.get(url, params=by_token)).status_code == 200
                assert (await far.get(url)).status_code == 200
                problem(await far.get(f"/v1/{other}/video.mp4", params=by_token), 403, "PERMISSION_DENIED")
                problem(await far.get("/v1/sessions/none/hls/index.m3u8"), 404, "SESSION_NOT_FOUND")
                await owner.delete(name)
                ended = await far.get(f"/v1/{name}/hls/index.m3u8", params=by_token)
                assert (ended.status_code, (await far.get(url)).status_code) == (200, 200)


async def test_a_gateway_that_leaves_closes_its_connections() -> None:
    async with http_town() as place:
        web, url = place.visitor, place.town.url
        assert (await web.get("/v1/sessions")).headers.get("connection") != "close"
        await place.town.server.close()
        refused = await web.get("/v1/sessions")
        problem(refused, 503, "NOT_READY")
        assert refused.headers["connection"] == "close"
    async with client(url) as late:
        with pytest.raises(httpx2.ConnectError):
            await late.get("/healthz")


async def test_a_port_that_is_taken_is_said_by_name() -> None:
    async with http_town() as place:
        port = httpx2.URL(place.town.url).port
        settings = replace(gateway_settings([], []), http=make(HttpSettings, {"port": port}))
        with pytest.raises(InvalidConfig, match=f"http.port: 127.0.0.1:{port} is taken"):
            async with lone(settings):
                await asyncio.sleep(0)
