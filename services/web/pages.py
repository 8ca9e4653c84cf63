"""The pages for people: `/`, two sessions side by side `/compare`, the operator's view `/operator`, the API
reference `/docs`, and their files in `static`, read at the start.

They are files without a secret: what a page may see and do, the API decides by the credentials it sends.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from services.web.backend import Backend

FOLDER = Path(__file__).with_name("static")
PAGES = {
    "/": "index.html",
    "/compare": "compare.html",
    "/operator": "operator.html",
    "/docs": "docs.html",
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Of every kind of file in the folder; the machine's own table of types may lack some."""
SCRIPT = re.compile(rb'<script type="module" src="static/([\w.]+)"')
IMPORT = re.compile(rb'^(?:import|export)\b[^;]*?"\./([\w.]+)"', re.MULTILINE)
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content-Security-Policy: nothing from elsewhere, nothing inline, no text that becomes code."""


@dataclass(frozen=True)
class File:
    """One file as it is answered."""

    content: bytes
    media_type: str
    etag: str


def routes(backend: Backend) -> list[BaseRoute]:
    """None where the setting `page` is off."""
    if not backend.settings.page:
        return []
    files = read_files(FOLDER)

    async def page(request: Request) -> Response:
        return answer(request, files[PAGES[request.scope["path"]]])

    async def static(request: Request) -> Response:
        file = files.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404)
        return answer(request, file)

    return [*(Route(path, page) for path in PAGES), Route("/static/{name}", static)]


def read_files(folder: Path) -> Mapping[str, File]:
    """By name. A path from outside is only ever looked up here."""
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in TYPES}
    pages = {name: with_preloads(contents[name], contents) for name in PAGES.values()}
    return {name: file_of(name, content) for name, content in (contents | pages).items()}


def file_of(name: str, content: bytes) -> File:
    return File(content, TYPES[Path(name).suffix], f'"{sha256(content).hexdigest()[:32]}"')


def with_preloads(page: bytes, contents: Mapping[str, bytes]) -> bytes:
    """It names all modules that its own imports, so that a browser asks for them at once and not as it meets
    them, one import after the other."""

    def named(script: re.Match[bytes]) -> bytes:
        names = [script[1]]
        for name in names:  # which grows
            names += [each for each in IMPORT.findall(contents[name.decode()]) if each not in names]
        return b"".join(b'<link rel="modulepreload" href="static/%s">\n' % name for name in names) + script[0]

    return SCRIPT.sub(named, page)


def answer(request: Request, file: File) -> Response:
    """304 where the browser has it already. It asks every time, so an upgrade is seen at once."""
    headers = {"etag": file.etag, "cache-control": "no-cache", "content-security-policy": POLICY}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers | {"content-type": file.media_type})
