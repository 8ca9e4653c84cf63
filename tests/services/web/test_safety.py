"""What surrounds every request: headers, origins, bounds, slow and hostile clients."""

import asyncio
import json
import logging
import stat

import httpx2
import pytest

from services.web.safety import HEADERS
from tests.services.support.gateway_support import WAIT_S, until
from tests.services.support.http_support import client, create, http_town, problem, spec

OURS, THEIRS = "https://app.example.com", "https://evil.example.com"
START = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"


async def open_line(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = httpx2.URL(url)
    return await asyncio.open_connection(parts.host, parts.port)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the other side closes."""
    async with asyncio.timeout(WAIT_S):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def test_every_answer_has_the_headers_of_safety() -> None:
    async with http_town() as place:
        web = place.visitor
        await create(web, sessionId="a")
        for path in (
            "/healthz",
            "/openapi.json",
            "/v1/sessions",
            "/v1/sessions/a",
            "/nowhere",
            "/v1/sessions/b",
        ):
            answer = await web.get(path, headers={"x-request-id": "mine"})
            assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS)
            assert answer.headers["x-request-id"] == "mine"
            assert "server" not in answer.headers
        problem(await web.get("/nowhere"), 404)
        refused = await web.put("/v1/sessions/a")
        problem(refused, 405)
        assert "GET" in refused.headers["allow"]


async def test_request_ids_of_strangers_are_taken_where_harmless_only() -> None:
    async with http_town() as place:
        answer = await place.visitor.get("/v1/sessions/none", headers={"x-request-id": "a b\tc"})
        assert answer.headers["x-request-id"] not in ("", "a b\tc")
        assert answer.json()["requestId"] == answer.headers["x-request-id"]


async def test_it_is_reached_by_its_own_names_alone() -> None:
    async with http_town(http={"hosts": ["localhost", "0::1", "Cascade.example.com"]}) as place:
        web = place.visitor
        for own in ("localhost:8080", "LOCALHOST", "localhost:", "[::1]:8080", "cascade.example.com"):
            assert (await web.get("/", headers={"host": own})).status_code == 200, own
        for other in ("evil.example.com:8080", "localhost.evil.example.com", "127.0.0.1"):
            body = {"requestId": "r", "spec": spec()}
            headers = {"host": other, "origin": f"http://{other}"}
            problem(await web.post("/v1/sessions", json=body, headers=headers), 421)
            problem(await web.get("/v1/sessions", headers=headers), 421)
        assert (await web.get("/healthz", headers={"host": "10.1.2.3:8080"})).status_code == 200


async def test_pages_of_named_origins_may_call_and_of_others_not() -> None:
    async with http_town(http={"cors_origins": [OURS]}) as place:
        web, body = place.visitor, {"requestId": "a", "spec": spec()}
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        allowed = await web.options("/v1/sessions", headers=asked | {"origin": OURS})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, OURS)
        refused = await web.options("/v1/sessions", headers=asked | {"origin": THEIRS})
        assert "access-control-allow-origin" not in refused.headers
        problem(await web.post("/v1/sessions", json=body, headers={"origin": THEIRS}), 403)
        problem(await web.post("/v1/sessions", json=body, headers={"origin": "null"}), 403)
        made = await web.post("/v1/sessions", json=body, headers={"origin": OURS})
        assert (made.status_code, made.headers["access-control-allow-origin"]) == (201, OURS)
        own = await web.post("/v1/sessions", json=body, headers={"origin": place.town.url})
        assert own.status_code == 201
        read = await web.get("/v1/sessions", headers={"origin": THEIRS})
        assert "access-control-allow-origin" not in read.headers


async def test_bodies_have_a_bound_announced_or_not() -> None:
    async with http_town(http={"max_body_bytes": 2048}) as place:
        web, kind = place.visitor, {"content-type": "application/json"}

        async def drip() -> object:
            for _ in range(10):
                yield b" " * 1000

        for content in (b" " * 2049, drip()):
            answer = await web.post("/v1/sessions", content=content, headers=kind)  # type: ignore[arg-type]
            problem(answer, 413)
        fits = await web.post("/v1/sessions", content=b" " * 2048, headers=kind)
        problem(fits, 400, "MALFORMED")
        other = await web.post("/v1/sessions", content=b"{}", headers={"content-type": "text/plain"})
        problem(other, 415)


async def test_headers_have_a_bound_whole_or_in_pieces() -> None:
    async with http_town(http={"max_header_bytes": 2048}) as place:
        web = place.visitor
        problem(await web.get("/v1/sessions", headers={"x-long": "a" * 2048}), 431)
        problem(await web.get("/v1/sessions", params={"pageToken": "a" * 2048}), 431)
        reader, writer = await open_line(place.town.url)
        for _ in range(3):
            writer.write(START + b"x-long: " + b"a" * 900)
            await writer.drain()
            await asyncio.sleep(0.05)
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 431")
        assert b"content-security-policy" in answer
        writer.close()
        assert (await web.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "content", [b"\x16\x03\x01\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"]
)
async def test_what_is_no_http_is_refused(content: bytes) -> None:
    async with http_town() as place:
        reader, writer = await open_line(place.town.url)
        writer.write(content)
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 400")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 400
        writer.close()


async def test_a_broken_body_ends_its_connection_alone() -> None:
    async with http_town() as place:
        reader, writer = await open_line(place.town.url)
        head = b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert not (await rest(reader)).startswith(b"HTTP/1.1 2")
        writer.close()
        assert (await place.visitor.get("/healthz")).status_code == 200


@pytest.mark.parametrize("begun", [b"", START])
async def test_slow_headers_end_the_connection(begun: bytes) -> None:
    async with http_town(http={"header_timeout_s": 0.3}) as place:
        reader, writer = await open_line(place.town.url)
        writer.write(begun)
        assert await rest(reader) == b""
        writer.close()


async def test_slow_headers_of_a_second_request_end_the_connection_too() -> None:
    async with http_town(http={"header_timeout_s": 0.3}) as place:
        reader, writer = await open_line(place.town.url)
        writer.write(START + b"\r\n")
        async with asyncio.timeout(WAIT_S):
            assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        writer.write(START)
        assert await rest(reader) == b""
        writer.close()


async def test_a_slow_body_is_refused() -> None:
    async with http_town(http={"body_timeout_s": 0.3}) as place:
        reader, writer = await open_line(place.town.url)
        writer.write(b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_body_that_comes_after_its_answer_ends_the_connection() -> None:
    async with http_town(http={"body_timeout_s": 0.3}) as place:
        reader, writer = await open_line(place.town.url)
        writer.write(START + b"Content-Length: 10\r\n\r\n{")
        async with asyncio.timeout(WAIT_S):
            assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        writer.write(b" ")
        assert await rest(reader) == b""
        writer.close()


async def test_connections_beyond_the_bound_are_closed_at_once() -> None:
    async with http_town(http={"max_connections": 3}) as place:
        lines = [await open_line(place.town.url) for _ in range(3)]
        for _, writer in lines:
            writer.write(START)
        await asyncio.sleep(0.1)
        reader, writer = await open_line(place.town.url)
        assert await rest(reader) == b""
        for _, open_writer in [*lines, (reader, writer)]:
            open_writer.close()

        async def answers() -> bool:
            try:
                async with client(place.town.url) as web:
                    return (await web.get("/healthz")).status_code == 200
            except httpx2.TransportError:
                return False

        async with asyncio.timeout(WAIT_S):
            while not await answers():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_nothing_secret_is_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with http_town(tenants=("acme",)) as place:
        web, secret = place.visitor, "s3cr3t-t0ken"
        await web.get("/v1/sessions", params={"resume_token": secret})
        await web.get(
            "/v1/sessions/a", headers={"authorization": f"Bearer {secret}", "x-resume-token": secret}
        )
        await web.post("/v1/sessions", json={"requestId": "a", "spec": spec(prompts={"0": secret})})
        await web.post(
            "/v1/sessions", content=f'{{"{secret}'.encode(), headers={"content-type": "text/plain"}
        )
        for protocol in ("cascade.v1", "other"):
            reader, writer = await open_line(place.town.url)
            writer.write(
                f"GET /v1/sessions/a/connect?resume_token={secret} HTTP/1.1\r\nHost: a\r\n"
                f"Upgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: Bearer {secret}\r\n"
                f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: {protocol}\r\n\r\n".encode()
            )
            async with asyncio.timeout(WAIT_S):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith((b"HTTP/1.1 101", b"HTTP/1.1 400"))
            writer.close()
    ours = [record for record in caplog.records if not record.name.startswith("http")]
    written = "".join((*capfd.readouterr(), *(record.getMessage() for record in ours)))
    assert secret not in written
    assert "/v1/sessions/a" in written


async def test_the_way_to_the_gateway_is_for_this_user_alone() -> None:
    async with http_town() as place:
        socket = place.town.server.service.http.socket  # type: ignore[attr-defined]
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert socket.exists()
    await until(lambda: not socket.parent.exists())


async def test_metrics_are_there_when_asked_for() -> None:
    async with http_town() as place:
        problem(await place.visitor.get("/metrics"), 404)
    async with http_town(http={"metrics": True}) as place:
        await place.visitor.get("/v1/sessions")
        assert "cascade_" in (await place.visitor.get("/metrics")).text
