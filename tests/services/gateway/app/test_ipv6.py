"""Everything on ::1: servers, what they are told of each other, and what people and proxies write."""

import asyncio
import socket
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest

from cascade_client import Client, Segment, Tls
from services.common.addresses import join
from services.common.own_sockets import OwnSockets
from services.common.settings import ServerTlsSettings
from services.gateway.app.assembly import running
from tests.paths import ROOT
from tests.services.support.certificates import Authority
from tests.services.support.command_support import cascade
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import (
    PROMPT,
    VIEWER,
    Tenant,
    gateway_settings,
    open_channel,
    until,
)
from tests.services.support.http_support import HttpTown, client, create, http_town
from tests.services.support.media_support import needs_ffprobe
from tests.services.support.ports import free_port, needs_ipv6
from tests.services.support.redis_support import RedisServer, needs_redis
from tests.services.support.system import clean_environment
from tests.services.support.video_support import browsing, page, probed, web_town

pytestmark = needs_ipv6


@needs_ffprobe
async def test_a_session_lives_on_ipv6_alone() -> None:
    """gRPC, JSON, a WebSocket with an Origin, HLS, the recording, metrics."""
    async with web_town(host="::1", telemetry={"metrics_host": "::1", "metrics_port": 0}) as place:
        async with browsing(place, "acme") as visitor:
            name = (await create(visitor))["name"]
        token = await place.anybody.token(name, "CONTROLLER")
        async with page(place, name, resumeToken=token) as browser:
            await browser.until_segments(4)
            url = f"{place.web}/v1/{name}/hls/index.m3u8?resume_token={token}"
            await place.anybody.delete(name)
            await browser.until_closed()
        assert int((await probed(url))["nb_read_frames"]) >= 4 * 12 - 3
        async with browsing(place, "acme") as visitor:
            own = {"origin": place.web}
            assert (await visitor.post("/v1/sessions", json={"spec": {}}, headers=own)).status_code != 403
            foreign = {"origin": "http://[::2]:8080"}
            assert (await visitor.post("/v1/sessions", json={"spec": {}}, headers=foreign)).status_code == 403
            movie = await visitor.get(f"/v1/{name}/video.mp4", params={"resume_token": token})
            assert movie.status_code == 200, movie.text
            metrics = place.server.telemetry.metrics_port
            assert "cascade_" in (await visitor.get(f"http://[::1]:{metrics}/metrics")).text


async def test_the_sdk_and_the_command_reach_it() -> None:
    async with http_town(
        host="::1", stages=[FakeStage(host="::1")], decoders=[FakeDecoder(host="::1")]
    ) as place:
        address = join("::1", place.town.server.port)
        async with Client(address) as sdk:
            session = await sdk.create(PROMPT, num_blocks=3)
            async with sdk.connect(session) as stream:
                played = [event async for event in stream if isinstance(event, Segment)]
            assert [each.sequence for each in played] == [1, 2, 3]
        listed = await cascade("sessions", "--gateway", address, "--json")
        assert session.name.removeprefix("sessions/") in listed.out
        drained = await cascade("drain", place.town.stage.address, "--timeout", "5", "--wait")
        assert drained.status == 0, drained.err
        assert "safe to delete" in drained.out


@needs_redis
async def test_gateways_find_each_other_by_their_own_address(tmp_path: Path) -> None:
    redis = RedisServer(persistent=False)
    (tmp_path / "token").write_bytes(bytes(range(32)))
    try:
        async with FakeStage(host="::1") as stage, FakeDecoder(host="::1") as decoder:
            shared = {"redis_url": redis.url, "token_key_file": tmp_path / "token"}
            settings = gateway_settings([stage.address], [decoder.address], host="::1", **shared)
            first, second = (
                replace(settings, grpc=replace(settings.grpc, port=free_port())) for _ in range(2)
            )
            async with (
                running(first) as (one, registry),
                running(second) as (other, _),
                open_channel(one.port, "::1") as near,
                open_channel(other.port, "::1") as far,
            ):
                await until(lambda: registry.shared.admission.has_stages)
                name = await Tenant(near, None).name(num_blocks=6)
                async with Tenant(far, None).attached(name, role=VIEWER) as stream:
                    await Tenant(near, None).delete(name)
                    await stream.until_over()
                assert stream.end_reason == "DELETED"
    finally:
        redis.close()


async def test_a_certificate_for_the_address_is_taken(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("server")
    settings = gateway_settings((), (), host="::1", http={})
    settings = replace(settings, tls=ServerTlsSettings(certificate, key))
    async with running(settings) as (server, _):
        async with Client(join("::1", server.port), tls=Tls(authority.path)) as sdk:
            assert not await sdk.models()
        context = ssl.create_default_context(cafile=authority.path)
        async with httpx2.AsyncClient(verify=context, trust_env=False) as visitor:
            service: Any = server.service
            assert (await visitor.get(f"https://[::1]:{service.http.port}/healthz")).text == "ok\n"


async def test_connections_over_ipv6_are_told_apart_as_gRPC_names_them() -> None:
    async with http_town(host="::1", stages=[], decoders=[], is_ready=False) as place:
        port = place.town.server.port
        async with open_channel(port, "::1") as channel:
            await channel.channel_ready()
            assert {line.name[0] for line in OwnSockets(port).lines(0)} == {"::1"}


async def test_every_address_serves_both_kinds() -> None:
    async with http_town(
        host="::", stages=[], decoders=[], is_ready=False, telemetry={"metrics_host": "::", "metrics_port": 0}
    ) as place:
        await check_both_addresses(place)


async def test_a_name_with_two_addresses_is_listened_on_at_both(monkeypatch: pytest.MonkeyPatch) -> None:
    both = two_addresses(("::1", "127.0.0.1"))
    monkeypatch.setattr(socket, "getaddrinfo", both)
    telemetry = {"metrics_host": "both.test", "metrics_port": 0}
    async with http_town(
        http={"host": "both.test"}, telemetry=telemetry, stages=[], decoders=[], is_ready=False
    ) as place:
        await check_both_addresses(place)


async def test_an_address_that_the_machine_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", two_addresses(("2001:db8::1", "127.0.0.1")))
    async with http_town(http={"host": "half.test"}, stages=[], decoders=[], is_ready=False) as place:
        assert (await place.visitor.get("/healthz")).text == "ok\n"


async def check_both_addresses(place: HttpTown) -> None:
    """The page and the metrics answer over IPv4 and IPv6."""
    ports = (httpx2.URL(place.town.url).port, place.town.server.telemetry.metrics_port)
    for host in ("127.0.0.1", "[::1]"):
        async with client("") as visitor:
            assert (await visitor.get(f"http://{host}:{ports[0]}/healthz")).text == "ok\n"
            assert (await visitor.get(f"http://{host}:{ports[1]}/metrics")).status_code == 200


def two_addresses(hosts: tuple[str, str]) -> Any:
    """As of a name in /etc/hosts."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if not str(host).endswith(".test"):
            return real(host, port, *arguments, **options)
        return [found for each in hosts for found in real(each, port, *arguments, **options)]

    return getaddrinfo


LOCALHOST = """
mount --bind {folder}/hosts /etc/hosts || exit 77
{python} -m services.gateway > {folder}/log 2>&1 &
gateway=$!
trap 'kill $gateway; wait $gateway' EXIT
for _ in $(seq 300); do {python} -m services.common.probe && break; sleep 0.1; done
{python} -m cascade_client sessions --gateway localhost:{grpc} &&
  {python} -c 'import urllib.request as web; print(web.urlopen("http://localhost:{http}/readyz").read())'
"""


def test_a_machine_whose_localhost_is_ipv6_alone(tmp_path: Path) -> None:
    """In a mount namespace of its own, as root."""
    (tmp_path / "hosts").write_text("::1 localhost\n")
    grpc_port, http_port = free_port(), free_port()
    options = {"folder": tmp_path, "python": sys.executable, "grpc": grpc_port, "http": http_port}
    environment = clean_environment() | {
        "CASCADE_GRPC_HOST": "localhost",
        "CASCADE_GRPC_PORT": str(grpc_port),
        "CASCADE_HTTP_HOST": "localhost",
        "CASCADE_HTTP_PORT": str(http_port),
        "CASCADE_DRAIN_DEADLINE_S": "0",
    }
    command = ["unshare", "--mount", "bash", "-c", LOCALHOST.format(**options)]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if "Operation not permitted" in done.stderr or done.returncode == 77:
        pytest.skip("needs a mount namespace, so root")
    log = tmp_path / "log"
    assert done.returncode == 0, done.stderr + log.read_text()
    assert "no sessions" in done.stdout + done.stderr
    assert "ready" in done.stdout


async def test_localhost_of_the_command_is_both(tmp_path: Path) -> None:
    """What `cascade up` gives its gateways to listen on."""
    async with http_town(host="localhost", stages=[], decoders=[], is_ready=False) as place:
        for host in ("127.0.0.1", "::1", "localhost"):
            channel = grpc.aio.insecure_channel(join(host, place.town.server.port))
            async with asyncio.timeout(10), channel:
                await channel.channel_ready()
