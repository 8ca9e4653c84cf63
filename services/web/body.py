"""The body of a request, within its bounds."""

import asyncio
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request

from services.web.problems import HttpError
from services.web.settings import HttpSettings

JSON = "application/json"
CLOSE = {"connection": "close"}
"""What is left of the body is not read."""
LINGER_S = 1.0


async def read_json(request: Request, settings: HttpSettings, most: int) -> bytes:
    """Not parsed; empty where there is no body; at most so many bytes. Raises HttpError."""
    content = await read(request, settings, most)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content and kind != JSON:
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {JSON}")
    return content


async def read(request: Request, settings: HttpSettings, most: int) -> bytes:
    """Raises HttpError. What is too large is still read for a moment, and dropped: a client that is cut off
    while it sends would not see why."""
    content, is_too_large = bytearray(), announced_bytes(request) > most
    if is_too_large and "expect" in request.headers:
        raise too_large(most)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LINGER_S if is_too_large else settings.body_timeout_s) as clock:
            async for part in request.stream():
                if is_too_large:
                    continue
                content += part
                if len(content) > most:
                    is_too_large = True
                    content.clear()
                    clock.reschedule(loop.time() + LINGER_S)
    except TimeoutError:
        if not is_too_large:
            text = f"the body did not come within {settings.body_timeout_s:g} s"
            raise HttpError(HTTPStatus.REQUEST_TIMEOUT, text, headers=CLOSE) from None
    except ClientDisconnect:
        raise HttpError(HTTPStatus.BAD_REQUEST, "the client left", headers=CLOSE) from None
    if is_too_large:
        raise too_large(most)
    return bytes(content)


def announced_bytes(request: Request) -> int:
    """0: the request does not say."""
    length = request.headers.get("content-length", "")
    return int(length[:20]) if length.isdecimal() else 0


def too_large(most: int) -> HttpError:
    return HttpError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {most} bytes", headers=CLOSE
    )
