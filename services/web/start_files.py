"""The picture or clip in the body of a new session: a large body is mostly one text in base64, which is taken
out before what is left is read as JSON, with the bound that any body has."""

import base64
import binascii
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from cascade.v1 import session_pb2
from services.common.auth import AUTHORIZATION
from services.common.errors import Overloaded
from services.common.validation import InvalidField
from services.web.backend import Backend
from services.web.body import announced_bytes

FILE_BYTES = 8 * 2**20
"""The contract's bound."""
BASE64_BYTES = FILE_BYTES * 4 // 3 + 4
AT_ONCE, EACH = 16, 4
"""Large bodies that are held at a time, and of callers with the same credential."""
FILE = re.compile(rb'"(image|video)"\s*:\s*"([^"]{1024,})"')


@dataclass(frozen=True)
class StartFile:
    """What was taken out."""

    kind: str
    """Of the contract's StartFile: `image` or `video`."""
    place: bytes
    """What stands in its place."""
    text: bytes
    """Base64."""

    def put_back(self, message: Any) -> None:
        """Raises InvalidField."""
        field = f"spec.start.{self.kind}"
        if getattr(message.spec.start, self.kind, b"") != self.place:
            raise InvalidField([(field, "is the only text that may be so long")])
        text = self.text.replace(rb"\/", b"/").replace(rb"\r", b"").replace(rb"\n", b"")
        setattr(message.spec.start, self.kind, from_base64(field, text))


def check_base64(values: dict[str, Any]) -> None:
    """Of a file that was not taken out: protobuf's parser takes what it can read and leaves out the rest.
    Raises InvalidField."""
    spec = values.get("spec")
    start = spec.get("start") if isinstance(spec, dict) else None
    for kind in ("image", "video"):
        if isinstance(start, dict) and isinstance(text := start.get(kind), str):
            lines = text.encode(errors="replace").replace(b"\r", b"").replace(b"\n", b"")
            from_base64(f"spec.start.{kind}", lines)


def from_base64(field: str, text: bytes) -> bytes:
    """In either alphabet, with padding or without. Raises InvalidField."""
    text = text.replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise InvalidField([(field, "must be base64 and nothing else")]) from None


def take_out(content: bytes) -> tuple[bytes, StartFile | None]:
    """The body without its file, if it has one."""
    found = FILE.search(content)
    if found is None:
        return content, None
    place = secrets.token_bytes(12)
    start, end = found.span(2)
    rest = content[:start] + base64.b64encode(place) + content[end:]
    return rest, StartFile(found[1].decode(), place, found[2])


class LargeBodies:
    """Those that are held now."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._held: Counter[str] = Counter()

    @asynccontextmanager
    async def room(self, request: Request, method: str) -> AsyncIterator[int]:
        """For as long as the block lasts: how many bytes the body may have. Raises Overloaded; AioRpcError
        for a caller who may not call at all, before anything large is read."""
        most = self._backend.settings.max_body_bytes
        if method != "CreateSession" or announced_bytes(request) <= most:
            yield most
            return
        await self._backend.unary(
            "ListModels", session_pb2.ListModelsRequest(), self._backend.credentials(request)
        )
        who = request.headers.get(AUTHORIZATION, "")
        if self._held[who] >= EACH or self._held.total() >= AT_ONCE:
            raise Overloaded("as many pictures and clips as may are on their way here; try again")
        self._held[who] += 1
        try:
            yield most + BASE64_BYTES
        finally:
            self._held[who] -= 1
            self._held += Counter()  # without those that hold nothing
