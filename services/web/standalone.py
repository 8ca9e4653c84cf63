"""The HTTP side as a process of its own, in front of a gateway elsewhere: the same application over TCP.

SIGTERM: not ready, the notice of `drain`, no new connections, WebSockets are closed with 1012 (attach again),
answers under way have the rest of that section's times. A second signal hurries.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from services.common.durations import LEEWAY_S
from services.common.resume_tokens import ResumeTokens
from services.common.server import SIGNALS
from services.common.telemetry import configure_logging, start_telemetry
from services.web.backend import Backend
from services.web.gateways import RemoteGateway
from services.web.server import HttpServer, listening
from services.web.settings import Settings

log = structlog.get_logger(__name__)
NAME = "web"
ARGUMENTS = {"--gateway": "CASCADE_WEB_GATEWAY", "--http-port": "CASCADE_HTTP_PORT"}
"""Of the command, with the variables that they stand for."""


@asynccontextmanager
async def running(settings: Settings, hurried: asyncio.Event | None = None) -> AsyncIterator[HttpServer]:
    """For as long as the block lasts. Raises InvalidConfig."""
    telemetry = start_telemetry(settings.telemetry, NAME)
    try:
        key_file = settings.web.token_key_file
        setting = "web.token_key_file"
        tokens = ResumeTokens(key_file, 0.0, setting=setting, leeway_s=LEEWAY_S) if key_file else None
        backend = Backend(settings.http, tokens, RemoteGateway(settings.web))
        grace_s = math.ceil(settings.drain.deadline_s + settings.drain.grace_s)
        web = (settings.http, settings.tls, backend, telemetry.registry)
        async with listening(*web, grace_s, hurried) as port:
            yield HttpServer(port, backend)
    finally:
        await telemetry.stop()


async def serve(settings: Settings) -> None:
    """Until SIGTERM has been answered in full."""
    configure_logging(settings.telemetry, NAME)
    asked, hurried = asyncio.Event(), asyncio.Event()

    def leave() -> None:
        (hurried if asked.is_set() else asked).set()

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, leave)
    async with running(settings, hurried) as server:
        await asked.wait()
        log.info("draining", deadline_s=settings.drain.deadline_s)
        server.leave()
        with suppress(TimeoutError):
            async with asyncio.timeout(settings.drain.notice_s):
                await hurried.wait()
    log.info("stopped")
