"""What stands between clients and gateways elsewhere: nginx, and whatever bounds the life of a connection."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets

from cascade_client import Client, Ended, Reconnected, Segment, Session, Stream, Tls, channel
from services.common import grpc_port
from services.common.channel import server_options
from services.common.settings import GrpcSettings
from tests.doc_blocks import blocks
from tests.paths import ROOT
from tests.services.support.certificates import Authority
from tests.services.support.front import Front
from tests.services.support.gateway_support import PROMPT, WAIT_S, Town, town
from tests.services.support.http_support import create
from tests.services.support.media_support import needs_ffprobe
from tests.services.support.nginx import Nginx, needs_nginx, nginx
from tests.services.support.system import clean_environment
from tests.services.support.video_support import Browser, playing, probed, web_town

SOCKET: dict[str, Any] = {"subprotocols": ["cascade.v1"], "proxy": None}

IDLE_S = 3.0
"""grpc pings once a second at most."""


class Player:
    """Of one session."""

    def __init__(self, session: Session, stream: Stream) -> None:
        self.session = session
        self.stream = stream
        self.events: list[Any] = []

    async def until_segments(self, number: int) -> None:
        while len(self.sequences) < number:
            self.events.append(await anext(self.stream))

    async def until_reconnected(self) -> None:
        number = self.num_reconnected
        while self.num_reconnected == number:
            self.events.append(await anext(self.stream))

    async def to_the_end(self) -> None:
        async for event in self.stream:
            self.events.append(event)

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.events if isinstance(event, Segment)]

    @property
    def num_reconnected(self) -> int:
        return sum(isinstance(event, Reconnected) for event in self.events)

    def check_whole(self, number: int) -> None:
        assert self.sequences == list(range(1, number + 1))
        assert isinstance(self.events[-1], Ended)
        assert self.events[-1].reason == "COMPLETE"


@asynccontextmanager
async def playing_at(sdk: Client, num_blocks: int) -> AsyncIterator[Player]:
    async with asyncio.timeout(WAIT_S):
        session = await sdk.create(PROMPT, num_blocks=num_blocks)
        async with sdk.connect(session) as stream:
            yield Player(session, stream)


def passed_on(place: Town, more: str = "") -> str:
    """To the gateway's gRPC port, with nginx's defaults but for `more`."""
    return f"location / {{ grpc_pass grpc://127.0.0.1:{place.server.port}; {more} }}"


@needs_nginx
async def test_a_session_goes_on_when_nginx_is_reloaded_and_when_it_is_started_anew(tmp_path: Path) -> None:
    """TLS ends at nginx."""
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("edge")
    tls = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
    async with town() as place:
        with Nginx(passed_on(place) + tls, "ssl http2") as proxy:
            async with Client(proxy.address, tls=Tls(authority.path)) as sdk, playing_at(sdk, 60) as player:
                await player.until_segments(5)
                await asyncio.to_thread(proxy.reload)
                await player.until_reconnected()
                await player.until_segments(30)
                await asyncio.to_thread(proxy.stop)
                await asyncio.to_thread(proxy.start)
                await player.until_reconnected()
                await player.to_the_end()
            player.check_whole(60)


@needs_nginx
@pytest.mark.parametrize(
    "limit",
    [
        "grpc_read_timeout 300ms",  # nothing from the gateway: a session that is paused
        "client_body_timeout 300ms",  # nothing from the client
        "client_max_body_size 600",  # all that the client sends, since the stream began
        "keepalive_requests 1",  # GOAWAY with each call
    ],
)
async def test_what_nginx_bounds_costs_no_segment(limit: str) -> None:
    async with town() as place:
        with Nginx(passed_on(place) + f"{limit};", "http2") as proxy:
            async with Client(proxy.address) as sdk, playing_at(sdk, 60) as player:
                await player.until_segments(3)
                if "timeout" in limit:
                    await sdk.pause(player.session)
                    await player.until_reconnected()
                    await sdk.resume(player.session)
                await player.to_the_end()
            player.check_whole(60)
            assert player.num_reconnected or "keepalive" in limit


async def test_pings_keep_a_quiet_connection_and_one_that_is_cut_for_its_silence_costs_no_segment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two sessions are paused behind a proxy that cuts what is idle: one pings in time, one does not."""

    def patient(settings: GrpcSettings) -> Any:
        return (dict(server_options(settings)) | {"grpc.http2.min_ping_interval_without_data_ms": 1}).items()

    monkeypatch.setattr(grpc_port, "server_options", patient)
    async with town() as place, Client(f"127.0.0.1:{place.server.port}") as direct:
        front = Front(f"127.0.0.1:{place.server.port}", idle_s=IDLE_S)
        await front.start()
        async with Client(front.address) as sdk, AsyncExitStack() as stack:
            with monkeypatch.context() as patch:
                often = dict(channel.OPTIONS) | {"grpc.keepalive_time_ms": 1000}
                patch.setattr(channel, "OPTIONS", list(often.items()))
                pinging = await stack.enter_async_context(playing_at(sdk, 40))
                await pinging.until_segments(1)
            async with playing_at(sdk, 40) as silent:
                await silent.until_segments(1)
                for player in (pinging, silent):
                    await direct.pause(player.session)
                await silent.until_reconnected()
                for player in (pinging, silent):
                    await direct.resume(player.session)
                    await player.to_the_end()
                    player.check_whole(40)
            assert not pinging.num_reconnected
        await front.close()


async def test_connections_that_grow_old_cost_no_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """GOAWAY, and after a grace all streams are cut, as of meshes after five minutes."""
    age = [("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 300)]

    def options(settings: GrpcSettings) -> Any:
        return [*server_options(settings), *age]

    monkeypatch.setattr(grpc_port, "server_options", options)
    async with town() as place, Client(f"127.0.0.1:{place.server.port}") as sdk:
        async with playing_at(sdk, 100) as player:
            await player.until_segments(3)
            for _ in range(3):
                await sdk.pause(player.session)
                await player.until_reconnected()
                await sdk.resume(player.session)
                await player.until_segments(len(player.sequences) + 1)
            await player.to_the_end()
        player.check_whole(100)


@needs_nginx
@needs_ffprobe
async def test_under_a_path_of_nginx_all_of_http_works() -> None:
    """With nginx's defaults: `location /cascade/ { proxy_pass http://gateway:8080/; }`."""
    async with web_town() as place:
        with nginx(f"{place.web}/", path="/cascade/") as port:
            url = f"http://127.0.0.1:{port}/cascade"
            own = {"authorization": "Bearer key-acme"}
            async with httpx2.AsyncClient(headers=own, timeout=WAIT_S, trust_env=False) as visitor:
                for path in ("/", "/operator", "/docs", "/openapi.json", "/healthz", "/v1/sessions"):
                    assert (await visitor.get(url + path)).status_code == 200, path
                assert (await visitor.get(url)).headers["location"].endswith("/cascade/")
                async with playing(place, 40) as (name, _):
                    token = await place.anybody.token(name)
                    socket = url.replace("http", "ws", 1) + f"/v1/{name}/connect"
                    async with websockets.connect(socket, **SOCKET) as line:
                        browser = Browser(line, acks=False)
                        await browser.send(attach={"resumeToken": token, "afterSequence": "38"})
                        await browser.until_segments(2)
                        await browser.leave()
                    await place.anybody.delete(name)
                playlist = f"{url}/v1/{name}/hls/index.m3u8?resume_token={token}"
                assert int((await probed(playlist))["nb_read_frames"]) == 40 * 12 - 3
                movie = f"{url}/v1/{name}/video.mp4?resume_token={token}"
                whole = await visitor.get(movie)
                direct = await visitor.get(f"{place.web}/v1/{name}/video.mp4?resume_token={token}")
                assert whole.content == direct.content
                part = await visitor.get(movie, headers={"range": "bytes=1000-1999"})
                assert (part.status_code, part.content) == (206, whole.content[1000:2000])


@needs_nginx
async def test_the_documented_nginx_carries_grpc_and_http(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("edge")
    async with web_town() as place:
        (locations,) = (block.text for block in blocks() if block.language == "nginx")
        for name, port in (("gateway:50051", place.server.port), ("gateway:8080", place.port)):
            assert name in locations
            locations = locations.replace(name, f"127.0.0.1:{port}")
        tls = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
        with Nginx(tls + locations, "ssl http2") as proxy:
            trusted = Tls(authority.path)
            async with (
                Client(proxy.address, api_key="key-acme", tls=trusted) as sdk,
                playing_at(sdk, 8) as player,
            ):
                await player.to_the_end()
            player.check_whole(8)
            context = ssl.create_default_context(cafile=authority.path)
            headers = {"authorization": "Bearer key-acme", "origin": f"https://{proxy.address}"}
            async with httpx2.AsyncClient(
                base_url=f"https://{proxy.address}/cascade", verify=context, headers=headers, trust_env=False
            ) as page:
                assert (await create(page))["name"]


def test_a_proxy_of_the_machine_is_not_on_the_way_to_the_machine_itself() -> None:
    """Nobody listens at the proxy that the environment names."""
    program = """
import asyncio
from tests.services.support.front import Front
from tests.services.support.gateway_support import town
from cascade_client import Client

async def main():
    async with town() as place, Client(f"localhost:{place.server.port}") as sdk:
        print(len(await sdk.models()))

asyncio.run(main())
"""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
    environment = clean_environment() | proxies | {"no_proxy": "", "NO_PROXY": ""}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert "1" in done.stdout.splitlines(), done.stderr
