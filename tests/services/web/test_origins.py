"""Whose pages may call: those of the place itself, as browsers and proxies tell it, and those named."""

import asyncio
import re
from typing import Any

import httpx2
import pytest
import websockets

from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.common.environment import load_settings
from services.web.origins import Origin, read_origin
from services.web.settings import HttpSettings, Settings
from tests.services.support.gateway_support import WAIT_S
from tests.services.support.http_support import HttpTown, http_town, problem
from tests.services.support.nginx import needs_nginx, nginx

BEHIND = {"trusted_proxies": ["127.0.0.0/8"]}
Headers = dict[str, str]


async def may_call(place: HttpTown, headers: Headers) -> bool:
    """Whether a page may: by POST, and, since both are asked alike, by WebSocket."""
    answer = await place.visitor.post("/v1/sessions", json={}, headers=headers)
    assert answer.status_code in (400, 403), answer.text
    if answer.status_code == 403:
        assert re.search(r"http\.cors_origins; .* http\.trusted_proxies", problem(answer, 403)["detail"])
    is_let_in = answer.status_code == 400
    assert (await handshake(place, headers) == 101) is is_let_in
    return is_let_in


async def handshake(place: HttpTown, headers: Headers) -> int:
    """The status of a WebSocket's."""
    url = httpx2.URL(place.town.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    lines = {"host": f"{url.host}:{url.port}", "upgrade": "websocket", "connection": "Upgrade"} | headers
    lines |= {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13"}
    lines |= {"sec-websocket-protocol": "cascade.v1"}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"GET /v1/sessions/a/connect HTTP/1.1\r\n{head}\r\n".encode())
    async with asyncio.timeout(WAIT_S):
        status = int((await reader.readline()).split()[1])
    writer.close()
    return status


SAME = [
    ("http://a.example:8080", "a.example:8080"),
    ("https://a.example", "a.example"),
    ("https://a.example:443", "a.example"),
    ("https://a.example", "a.example:443"),
    ("http://a.example", "a.example:80"),
    ("https://A.Example", "a.EXAMPLE"),
    ("https://a.example", "a.example."),
    ("https://a.example.:8443", "a.example:8443"),
    ("http://[::1]:8080", "[::1]:8080"),
    ("http://[0:0:0:0:0:0:0:1]:8080", "[::1]:8080"),
    ("https://[2001:DB8::1]", "[2001:db8::1]:443"),
    ("https://a.example:8443", "a.example"),  # the port is gone
    ("http://[::1]:8080", "[::1]"),
    ("http://127.0.0.1:18080", "127.0.0.1"),
]
OTHERS = [
    ("https://evil.example", "a.example"),
    ("https://a.example.evil.example", "a.example"),
    ("https://evil-a.example", "a.example"),
    ("http://a.example:3000", "a.example:8080"),
    ("http://a.example", "a.example:8080"),
    ("https://a.example", "a.example:80"),
    ("http://localhost:3000", "localhost:8080"),
    ("http://localhost:8080", "127.0.0.1:8080"),
    ("https://a.example@evil.example", "a.example"),
    ("https://a.example/", "a.example"),
    ("https://a.example, https://evil.example", "a.example"),
    ("https://a.example:0", "a.example:0"),
    ("https://a.example:99999", "a.example:99999"),
    ("http://[::1", "[::1"),
    ("null", "a.example"),
    ("null", ""),
    ("", ""),
    ("https://", ""),
    ("file://", ""),
    ("a.example", "a.example"),
    ("app://a.example", "a.example"),
    ("wss://a.example", "a.example"),
]


async def test_the_place_itself_is_known_however_it_is_written() -> None:
    async with http_town() as place:
        for origin, host in SAME:
            assert await may_call(place, {"origin": origin, "host": host}), (origin, host)
        for origin, host in OTHERS:
            assert not await may_call(place, {"origin": origin, "host": host}), (origin, host)


async def test_a_browser_that_tells_where_a_page_is_from_is_believed() -> None:
    """Whatever a proxy has made of Host, and though the host is the same."""
    async with http_town() as place:
        away = {"origin": "https://a.example", "host": "gateway:8080"}
        assert await may_call(place, away | {"sec-fetch-site": "same-origin"})
        assert not await may_call(place, away | {"sec-fetch-site": "none"})
        neighbour = {"origin": "https://a.example:9443", "host": "a.example"}
        for site in ("same-site", "cross-site"):
            assert not await may_call(place, neighbour | {"sec-fetch-site": site})


async def test_at_a_port_of_its_own_scheme_a_host_without_port_has_lost_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with http_town() as place:
        port = httpx2.URL(place.town.url).port
        monkeypatch.setattr("services.web.origins.DEFAULT_PORTS", {"http": port, "https": 443})
        assert await may_call(place, {"origin": f"http://a.example:{port}", "host": "a.example"})
        assert not await may_call(place, {"origin": "http://a.example:3000", "host": "a.example"})


PUBLIC = {"origin": "https://a.example:8443"}
FORWARDED = [
    {"host": "gateway:8080", "x-forwarded-host": "a.example:8443"},
    {"host": "gateway:8080", "x-forwarded-host": "a.example", "x-forwarded-port": "8443"},
    {"host": "gateway:8080", "x-forwarded-host": "a.example:8443, inner:8080"},
    {"host": "a.example", "x-forwarded-port": "8443"},
    {"host": "a.example", "x-forwarded-proto": "https"},
    {"host": "a.example:8443", "x-forwarded-proto": "http"},  # of an inner proxy
    {"host": "a.example:8443", "x-forwarded-port": "8080", "x-forwarded-proto": "https, http"},
]
FORWARDED_OTHERS = [
    {"host": "a.example", "x-forwarded-port": "443"},
    {"host": "a.example", "x-forwarded-port": "9" * 5000},
    {"host": "gateway:8080", "x-forwarded-host": "b.example:8443"},
    {"host": "gateway:8080", "x-forwarded-host": "a.example:443"},
]


async def test_a_trusted_proxy_tells_what_was_called() -> None:
    async with http_town(http=BEHIND) as place:
        for headers in FORWARDED:
            assert await may_call(place, PUBLIC | headers), headers
        for headers in FORWARDED_OTHERS:
            assert not await may_call(place, PUBLIC | headers), headers
        plain = {"origin": "http://a.example", "host": "a.example"}
        assert await may_call(place, plain)
        assert not await may_call(place, plain | {"x-forwarded-proto": "https"})


async def test_another_proxy_does_not() -> None:
    async with http_town() as place:
        for headers in FORWARDED[:3]:
            assert not await may_call(place, PUBLIC | headers), headers


@needs_nginx
@pytest.mark.parametrize(
    ("location", "http"),
    [
        ("proxy_set_header Host $host;", {}),
        ("proxy_set_header Host $http_host;", {}),
        ("proxy_set_header X-Forwarded-Host $http_host;", BEHIND),
        ("proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port;", BEHIND),
    ],
    ids=["port stripped", "passed on", "forwarded", "forwarded in two"],
)
async def test_pages_behind_nginx(location: str, http: dict[str, Any]) -> None:
    async with http_town(http=http) as place:
        with nginx(place.town.url, location) as port:
            origin, url = f"http://localhost:{port}", f"http://localhost:{port}/v1/sessions"
            async with httpx2.AsyncClient(timeout=WAIT_S, trust_env=False) as web:
                assert (await web.post(url, json={}, headers={"origin": origin})).status_code == 400
                other = {"origin": "http://evil.example"}
                assert (await web.post(url, json={}, headers=other)).status_code == 403
            address = f"ws://localhost:{port}/v1/sessions/a/connect"
            async with websockets.connect(address, subprotocols=["cascade.v1"], origin=origin, proxy=None):  # type: ignore[list-item,arg-type]
                pass


SHELLS = ["tauri://localhost", "http://tauri.localhost", "capacitor://localhost", "ionic://localhost"]
SHELLS += ["app://bundle", "app://.", "file://", "chrome-extension://abcdefghijklmnop", "null"]


async def test_named_origins_are_known_however_they_are_written() -> None:
    written = [
        ("HTTPS://App.Example.com:443", "https://app.example.com"),
        ("http://[::1]", "http://[0::1]:80"),
    ]
    named = [*SHELLS, *(setting for setting, _ in written)]
    async with http_town(http={"cors_origins": named}) as place:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        for origin in [*SHELLS, *(sent for _, sent in written)]:
            assert await may_call(place, {"origin": origin, "sec-fetch-site": "cross-site"}), origin
            for answer in (
                await place.visitor.options("/v1/sessions", headers=asked | {"origin": origin}),
                await place.visitor.get("/v1/sessions", headers={"origin": origin}),
            ):
                assert answer.status_code == 200
                assert answer.headers["access-control-allow-origin"] == origin
        for origin in ("tauri://evil", "https://tauri.localhost", "app://", "https://app.example.com:8443"):
            assert not await may_call(place, {"origin": origin}), origin
    async with http_town() as place:
        for origin in SHELLS:
            assert not await may_call(place, {"origin": origin}), origin


@pytest.mark.parametrize(
    "text",
    [
        "https://app.example.com/",
        "https://app.example.com/path",
        "app.example.com",
        "localhost:3000",
        "//app.example.com",
        "*",
        "https://*.example.com",
        "https://user@app.example.com",
        "https://app.example.com?a",
        "https://app.example.com:port",
        "https://app.example.com:0",
        "https://app.example.com:65536",
        "https://[app]",
        "https://",
        "https:app.example.com",
        "wss://app.example.com",
        "tauri://localhost/index.html",
        "https://bücher.example",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(
        InvalidConfig, match=r"cors_origins\.0: .*an origin is SCHEME://HOST\[:PORT\] without a path"
    ):
        make(HttpSettings, {"cors_origins": [text]})
    with pytest.raises(InvalidConfig, match=r"CASCADE_HTTP_CORS_ORIGINS: .*an origin is SCHEME"):
        load_settings(Settings, {"CASCADE_HTTP_CORS_ORIGINS": f"https://good.example, {text}"})


def test_equal_origins_are_equal_and_no_others() -> None:
    assert read_origin("HTTPS://A.example.:443") == Origin("https", "a.example", 443)
    assert read_origin("https://a.example") != read_origin("http://a.example:443")
    assert read_origin("null") != read_origin("null://")
