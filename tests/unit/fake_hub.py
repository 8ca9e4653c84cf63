"""A model hub on loopback, as much of it as a download needs; it can break off in the middle of a file."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories by name, each with its files by path."""

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        self.repositories = repositories
        self.breaks_once: set[str] = set()
        """Paths that are sent by half the next time."""
        self.asked: list[tuple[str, str]] = []
        """(path, Range header) of each file that was fetched."""
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler, has_body: bool) -> None:
        path = unquote(urlsplit(request.path).path).strip("/")
        for name, files in self.repositories.items():
            if path.startswith(f"api/models/{name}"):
                tree = f"api/models/{name}/tree/" in path
                return self._say(request, entries(files) if tree else about(name, files))
            prefix = f"{name}/resolve/"
            if path.startswith(prefix):
                file = path.removeprefix(prefix).partition("/")[2]
                if file in files:
                    return self._send(request, file, files[file], has_body)
        request.send_response(404)
        request.send_header("X-Error-Code", "EntryNotFound")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return None

    def _say(self, request: BaseHTTPRequestHandler, content: object) -> None:
        body = json.dumps(content).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _send(self, request: BaseHTTPRequestHandler, file: str, content: bytes, has_body: bool) -> None:
        wanted = request.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0] or 0) if wanted else 0
        if has_body:
            self.asked.append((file, wanted))
        request.send_response(206 if start else 200)
        request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", str(len(content) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        if has_body and file in self.breaks_once:
            self.breaks_once.remove(file)
            request.wfile.write(content[start : len(content) // 2])
            request.close_connection = True
        elif has_body:
            request.wfile.write(content[start:])


def about(name: str, files: Mapping[str, bytes]) -> object:
    """A repository."""
    return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}


def entries(files: Mapping[str, bytes]) -> object:
    """The tree of a repository."""
    return [
        {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for file, content in files.items()
    ]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """On a free port, for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.answer(self, has_body=True)

        def do_HEAD(self) -> None:
            hub.answer(self, has_body=False)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
