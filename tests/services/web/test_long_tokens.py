"""Tokens as long as Microsoft Entra makes them for users of many groups, on every way in over HTTP."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
import websockets

from cascade_core.config import make
from services.common.auth import MAX_TOKEN_CHARS
from services.common.settings import AuthSettings
from tests.services.support.gateway_support import WAIT_S, gateway_settings
from tests.services.support.http_support import client, problem
from tests.services.support.jwks_server import AUDIENCE, ISSUER, Issuer
from tests.services.support.nginx import needs_nginx, nginx
from tests.services.web.test_ways_in import lone


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer("ES256")


@pytest_asyncio.fixture
async def port(issuer: Issuer, tmp_path: Path) -> AsyncIterator[int]:
    """Of a gateway that takes its tokens."""
    path = tmp_path / "jwks.json"
    path.write_text(issuer.key_set())
    values = {"modes": ["jwt"], "jwks": str(path), "issuer": ISSUER, "audience": AUDIENCE}
    settings = gateway_settings([], [], http={})
    async with lone(replace(settings, auth=make(AuthSettings, values))) as number:
        yield number


def long_token(issuer: Issuer, num_chars: int) -> str:
    """Of that many characters, or a few less."""
    num_groups = (num_chars - len(issuer.token("key-ES256", groups=""))) * 3 // 4 + 40
    while len(token := issuer.token("key-ES256", groups="g" * num_groups)) > num_chars:
        num_groups -= 1
    return token


async def first_answer(port: int, token: str, *, in_header: bool) -> str:
    """Its reason; the session is none, which only who was let in is told."""
    headers = {"authorization": f"Bearer {token}"} if in_header else {}
    url = f"ws://127.0.0.1:{port}/v1/sessions/none/connect"
    async with websockets.connect(
        url,
        subprotocols=["cascade.v1"],
        additional_headers=headers,
        proxy=None,  # type: ignore[list-item]
    ) as socket:
        await socket.send(json.dumps({"attach": {}} | ({} if in_header else {"credential": token})))
        return str(json.loads(await socket.recv())["problem"]["reason"])


@pytest.mark.parametrize("num_chars", [8_100, 10_000, 16_400, MAX_TOKEN_CHARS])
async def test_a_long_token_lets_in(issuer: Issuer, port: int, num_chars: int) -> None:
    token = long_token(issuer, num_chars)
    assert num_chars - 40 < len(token) <= num_chars
    async with client(f"http://127.0.0.1:{port}", authorization=f"Bearer {token}") as web:
        for _ in range(5):
            assert (await web.get("/v1/sessions")).json()["sessions"] == []
    for in_header in (True, False):
        assert await first_answer(port, token, in_header=in_header) == "SESSION_NOT_FOUND", in_header


async def test_a_handshake_of_many_headers_is_answered(port: int) -> None:
    """Where something else would count lines, nobody would answer at all."""
    url, many = f"ws://127.0.0.1:{port}/v1/sessions/none/connect", {f"x-{n}": "a" for n in range(150)}
    async with websockets.connect(
        url,
        subprotocols=["cascade.v1"],  # type: ignore[list-item]
        additional_headers=many,
        proxy=None,
    ):
        pass
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(url, additional_headers={"x-long": "a" * 33_000}, proxy=None)
    assert caught.value.response.status_code == 431


async def test_a_longer_one_is_refused_by_its_length(issuer: Issuer, port: int) -> None:
    token = long_token(issuer, MAX_TOKEN_CHARS + 100)
    async with client(f"http://127.0.0.1:{port}", authorization=f"Bearer {token}") as web:
        said = problem(await web.get("/v1/sessions"), 401, "UNAUTHENTICATED")["detail"]
        assert said == f"this token has {len(token)} characters; {MAX_TOKEN_CHARS} are taken at most"
    async with client(f"http://127.0.0.1:{port}", authorization=f"Bearer {'x' * 40_000}") as web:
        assert "http.max_header_bytes" in problem(await web.get("/v1/sessions"), 431)["detail"]


@needs_nginx
async def test_a_long_token_passes_nginx_that_was_told_to_take_it(issuer: Issuer, port: int) -> None:
    token = long_token(issuer, 10_000)
    headers = {"authorization": f"Bearer {token}"}
    for server, status in (("", 400), ("large_client_header_buffers 4 32k;", 200)):
        with nginx(f"http://127.0.0.1:{port}", server=server) as front:
            async with httpx2.AsyncClient(headers=headers, timeout=WAIT_S, trust_env=False) as web:
                answer = await web.get(f"http://127.0.0.1:{front}/v1/sessions")
                assert answer.status_code == status, answer.text
