"""The page for people: what is served, as what, and what is not."""

import asyncio
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.web.pages import FOLDER
from tests.services.support.gateway_support import WAIT_S
from tests.services.support.http_support import http_town, problem

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'")
FILES = sorted(path.name for path in FOLDER.iterdir() if path.is_file())
WRONG = (
    "/static/",
    "/static/nothing.js",
    "/static/../pages.py",
    "/static/%2e%2e/pages.py",
    "/static/..%2fpages.py",
    "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fpyproject.toml",
    "/static//etc/passwd",
    "/static/page.js/",
    "/static/page.js%00.css",
    "/operator/",
    "/index.html",
)


async def get_raw(url: str, path: str) -> bytes:
    """The whole answer to a path as it stands: clients would tidy it up."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    async with asyncio.timeout(WAIT_S):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
    writer.close()
    return answer


async def test_type_and_policy() -> None:
    async with http_town() as here:
        for path in ("/", "/compare", "/operator", "/docs", *(f"/static/{name}" for name in FILES)):
            answer = await here.visitor.get(path)
            suffix = Path(path).suffix or ".html"
            assert answer.status_code == 200, path
            assert answer.headers["content-type"].split(";")[0] == TYPES[suffix]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-cache"
            policy = answer.headers["content-security-policy"]
            assert {*POLICY} <= {*policy.split("; ")}
            assert not re.search(r"unsafe|http|\*", policy)


async def test_head_has_what_get_has_but_the_content() -> None:
    async with http_town() as here:
        for path in ("/", "/compare", "/operator", "/docs", "/static/page.js"):
            whole, head = await here.visitor.get(path), await here.visitor.head(path)
            assert (head.status_code, head.content) == (200, b"")
            for name in ("content-length", "content-type", "etag", "content-security-policy"):
                assert head.headers[name] == whole.headers[name]


async def test_what_the_browser_has_is_not_sent_again() -> None:
    async with http_town() as here:
        etag = (await here.visitor.get("/static/page.js")).headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}'):
            again = await here.visitor.get("/static/page.js", headers={"if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        other = await here.visitor.get("/static/page.js", headers={"if-none-match": '"other"'})
        assert other.status_code == 200


async def test_nothing_but_the_files_of_the_folder() -> None:
    async with http_town() as here:
        for path in WRONG:
            answer = await get_raw(here.town.url, path)
            assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 307 ")), path
            assert not re.search(rb"import|root:", answer)


async def test_only_reading() -> None:
    async with http_town() as here:
        problem(await here.visitor.post("/", json={}), 405)
        problem(await here.visitor.delete("/static/page.js"), 405)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".html")])
def test_nothing_inline_and_nothing_from_elsewhere(name: str) -> None:
    """The policy would keep the browser from running it: the page would be broken without a word."""
    text = (FOLDER / name).read_text()
    assert not re.search(
        r"<style|<script(?![^>]* src=)|\sstyle=|\son\w+=|https?:|//", text[len("<!doctype html>") :]
    )
    for found in re.findall(r'(?:src|href)="/static/([^"]+)"', text):
        assert found in FILES


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_modules_import_what_is_there_and_make_no_code_of_text(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert {*re.findall(r'from "\./([^"]+)"', text)} <= {*FILES}
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )


async def test_off() -> None:
    async with http_town(http={"page": False}) as here:
        for path in ("/", "/compare", "/operator", "/docs", "/static/page.js"):
            problem(await here.visitor.get(path), 404)
        assert (await here.visitor.get("/openapi.json")).status_code == 200
