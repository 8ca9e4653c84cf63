"""The HTTP side as a process of its own."""

import asyncio
import shutil
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets

from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.common.entry import run
from services.common.environment import load_settings
from services.common.settings import ServerTlsSettings
from services.gateway.app.assembly import running as gateway_running
from services.web.settings import Settings
from services.web.standalone import ARGUMENTS, running, serve
from tests.services.support.certificates import Authority
from tests.services.support.front import Front
from tests.services.support.gateway_support import WAIT_S, gateway_settings, until_value
from tests.services.support.http_support import client, create, problem
from tests.services.support.ports import free_port
from tests.services.support.redis_support import DIE_WITH_US
from tests.services.support.system import ROOT, clean_environment
from tests.services.support.video_support import Browser, WebTown, playing, web_town
from tests.services.web.test_safety import open_line, rest

START = b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\n"


def settings(gateway: str, http: dict[str, Any] | None = None, **web: Any) -> Settings:
    return make(Settings, {"web": {"gateway": gateway} | web, "http": {"port": 0} | (http or {})})


def address_of(place: WebTown) -> str:
    return f"127.0.0.1:{place.server.port}"


@asynccontextmanager
async def process(gateway: str, log: Path) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Its URL, once it answers."""
    port = free_port()
    arguments = ("-m", "services.web", "--gateway", gateway, "--http-port", str(port))
    variables = clean_environment() | {"CASCADE_HTTP_METRICS": "true"}
    with log.open("wb") as file:
        program = await asyncio.create_subprocess_exec(
            *DIE_WITH_US, sys.executable, *arguments, cwd=ROOT, env=variables, stdout=file, stderr=file
        )
    try:
        async with client(f"http://127.0.0.1:{port}") as web:
            await until_value(lambda: status(web, "/healthz"), lambda found: found == 200)
        yield f"http://127.0.0.1:{port}", program
    finally:
        if program.returncode is None:
            program.kill()
        await program.wait()


async def status(web: httpx2.AsyncClient, path: str) -> int:
    """0: nobody answers."""
    try:
        return int((await web.get(path)).status_code)
    except httpx2.TransportError:
        return 0


async def test_a_process_in_front_of_a_gateway(tmp_path: Path) -> None:
    """All that it serves; a gateway that is away and comes back; its end, which its clients understand."""
    front = Front()
    await front.start()
    async with web_town(http={"port": None}) as place, process(front.address, tmp_path / "log") as (url, web):
        async with client(url, "acme") as acme, client(url) as nobody:
            assert await status(acme, "/readyz") == 503
            problem(await acme.get("/v1/sessions"), 503, "NOT_READY")
            front.lead_to([address_of(place)])
            await until_value(lambda: status(acme, "/readyz"), lambda found: found == 200)
            assert "<html" in (await nobody.get("/")).text
            assert "process_cpu_seconds_total" in (await nobody.get("/metrics")).text
            name = (await create(acme))["name"]
            assert (await acme.get(f"/v1/{name}")).json()["session"]["name"] == name
            problem(await nobody.get(f"/v1/{name}"), 401, "UNAUTHENTICATED")
            socket_url = f"{url.replace('http', 'ws')}/v1/{name}/connect"
            async with websockets.connect(socket_url, subprotocols=["cascade.v1"], proxy=None) as socket:  # type: ignore[list-item]
                browser = Browser(socket, acks=True)
                await browser.send(attach={}, credential="key-acme")
                await browser.until_segments(2)
                token, path = await place.anybody.token(name), f"/v1/{name}/hls/index.m3u8"
                assert "#EXTM3U" in (await nobody.get(path, params={"resume_token": token})).text
                problem(await nobody.get(path, params={"resume_token": token + "A"}), 401, "UNAUTHENTICATED")
                front.lead_to([])
                front.cut()
                problem(await acme.get("/v1/sessions"), 503, "NOT_READY")
                assert await status(acme, "/readyz") == 503
                await browser.until_closed()
                assert browser.code == 4503
            front.lead_to([address_of(place)])
            await until_value(lambda: status(acme, "/readyz"), lambda found: found == 200)
            async with websockets.connect(socket_url, subprotocols=["cascade.v1"], proxy=None) as socket:  # type: ignore[list-item]
                browser = Browser(socket, acks=True)
                await browser.send(attach={}, credential="key-acme")
                await browser.first("attached")
                web.send_signal(signal.SIGTERM)
                await browser.until_closed()
                assert browser.code == 1012
        async with asyncio.timeout(WAIT_S):
            assert await web.wait() == 0, (tmp_path / "log").read_text()
    await front.close()


@pytest.mark.parametrize("is_hurried", [False, True])
async def test_an_answer_under_way_is_given_unless_a_second_signal_hurries(
    tmp_path: Path, is_hurried: bool
) -> None:
    async with process("127.0.0.1:1", tmp_path / "log") as (url, web), client(url) as visitor:
        reader, writer = await open_line(url)
        writer.write(START + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{")
        assert await status(visitor, "/healthz") == 200
        web.send_signal(signal.SIGTERM)
        await until_value(lambda: status(visitor, "/healthz"), lambda found: found == 0)
        if is_hurried:
            web.send_signal(signal.SIGTERM)
        else:
            writer.write(b"}")
            answer = await rest(reader)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"connection: close" in answer
        async with asyncio.timeout(WAIT_S):
            assert await web.wait() == 0, (tmp_path / "log").read_text()
        writer.close()


@pytest.mark.parametrize("has_key", [True, False])
async def test_tokens_are_read_with_the_key_or_by_asking(tmp_path: Path, has_key: bool) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    more: dict[str, Any] = {"token_key_file": key} if has_key else {}
    async with web_town(token_key_file=key) as place, playing(place, 2) as (name, _):
        other = await place.tenants["other"].name()
        async with running(settings(address_of(place), **more)) as web, client(url_of(web)) as visitor:
            for session in (name, other):
                path = f"/v1/{session}/hls/index.m3u8"
                for token, code in (
                    (await place.anybody.token(name), 200 if session == name else 403),
                    (await place.anybody.token(name, ttl_s=60) + "A", 401),
                    ("forged", 401),
                    ("", 401),
                ):
                    answer = await visitor.get(path, params={"resume_token": token} if token else {})
                    assert answer.status_code == code, (session, token, answer.text)
            await place.anybody.delete(name)
            token = await place.tenants["other"].token(other)
            answer = await visitor.get(f"/v1/{name}/hls/index.m3u8", params={"resume_token": token})
            problem(answer, 403, "PERMISSION_DENIED")


async def test_readers_cost_no_viewer_each_without_the_key(tmp_path: Path) -> None:
    """One asks for all, and leaves."""
    async with web_town() as place, playing(place, 2) as (name, _):
        token = await place.anybody.token(name)
        async with running(settings(address_of(place))) as web, client(url_of(web)) as visitor:
            path = f"/v1/{name}/hls/index.m3u8?resume_token={token}"
            answers = await asyncio.gather(*(visitor.get(path) for _ in range(20)))
            assert {answer.status_code for answer in answers} == {200}
            await until_value(lambda: place.anybody.get(name), lambda session: session.num_viewers == 1)


def url_of(web: Any) -> str:
    return f"http://127.0.0.1:{web.port}"


async def test_no_certificate_passes_for_the_callers(tmp_path: Path) -> None:
    """Neither the web's own, by which it is let in at the gateway, nor a client's, nor a forged name."""
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("server")
    tls = make(ServerTlsSettings, {"certificate": certificate, "key": key, "ca": authority.path})
    gateway = replace(gateway_settings([], []), tls=tls)
    gateway = replace(gateway, auth=replace(gateway.auth, modes=("mtls",)))
    own = authority.issue("web")
    way = {
        "tls": True,
        "certificate": own[0],
        "key": own[1],
        "ca": authority.path,
        "server_name": "localhost",
    }
    async with gateway_running(gateway) as (server, _):
        there = settings(f"127.0.0.1:{server.port}", **way)
        forged = {"cascade-certificate-name-bin": "YWRtaW4", "cascade-on-behalf": ""}
        async with running(there) as web, client(url_of(web)) as visitor:
            await until_value(lambda: status(visitor, "/readyz"), lambda found: found == 200)
            for headers in ({}, forged, {"authorization": "Bearer any"}):
                problem(await visitor.get("/v1/sessions", headers=headers), 401, "UNAUTHENTICATED")
        context = ssl.create_default_context(cafile=authority.path)
        context.load_cert_chain(*authority.issue("client"))
        async with (
            running(replace(there, tls=tls)) as web,
            httpx2.AsyncClient(verify=context, timeout=WAIT_S, trust_env=False) as visitor,
        ):
            problem(await visitor.get(f"https://localhost:{web.port}/v1/sessions"), 401, "UNAUTHENTICATED")


async def test_certificates_are_renewed_under_way(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    certificate, key = old.issue("server")
    tls = make(ServerTlsSettings, {"certificate": certificate, "key": key, "ca": old.path})
    own = old.issue("web")
    way = {"tls": True, "certificate": own[0], "key": own[1], "ca": old.path}
    front = Front()
    await front.start()
    async with gateway_running(replace(gateway_settings([], []), tls=tls)) as (server, _):
        front.lead_to([f"127.0.0.1:{server.port}"])
        async with running(settings(front.address, **way)) as web, client(url_of(web)) as visitor:
            assert (await visitor.get("/v1/sessions")).status_code == 200
            files = (*new.issue("server"), *new.issue("web"), new.path)
            for source, target in zip(files, (certificate, key, *own, old.path), strict=True):
                shutil.copy(source, target)
            front.cut()
            await until_value(lambda: status(visitor, "/v1/sessions"), lambda found: found == 200)
    await front.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gateway"], "takes no arguments but --gateway, --http-port, --help"),
        (["--gateway", "nowhere"], "CASCADE_WEB_GATEWAY"),
        (["--gateway", "127.0.0.1:1", "--http-port", "none"], "CASCADE_HTTP_PORT"),
    ],
)
def test_arguments_stand_for_variables(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["web", *arguments])
    with pytest.raises(SystemExit) as ended:
        run("web", Settings, serve, ARGUMENTS)
    assert said in f"{capsys.readouterr().err}{ended.value}"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CASCADE_WEB_SERVER_NAME": "a"}, "need tls"),
        ({"CASCADE_AUTH_MODES": "jwt"}, "CASCADE_AUTH_MODES: no such setting"),  # nobody is asked here
    ],
)
def test_wrong_settings_are_said_by_name(variables: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        load_settings(Settings, variables)


async def test_a_key_that_is_missing_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"web\.token_key_file"):
        async with running(settings("127.0.0.1:1", token_key_file=tmp_path / "none")):
            pass


async def test_a_port_that_is_taken_is_said_by_name() -> None:
    async with running(settings("127.0.0.1:1")) as web:
        with pytest.raises(InvalidConfig, match=f"http.port: 127.0.0.1:{web.port} is taken"):
            async with running(settings("127.0.0.1:1", {"port": web.port})):
                pass
