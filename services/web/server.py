"""uvicorn for as long as a block of code lasts, without its signals: in the gateway's process by `serving`,
in one of its own by `standalone.py`."""

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from cascade_core.errors import InvalidConfig
from services.common.addresses import join
from services.common.listening import listen
from services.common.race import first_of
from services.common.resume_tokens import ResumeTokens
from services.common.settings import TlsSettings
from services.common.watched import WatchedFiles
from services.web.app import make_app
from services.web.backend import Backend
from services.web.bounded_config import BoundedConfig
from services.web.gateways import OwnGateway
from services.web.settings import HttpSettings
from services.web.uvicorn_private import BoundedProtocol, BoundedSocket, QuietServer

log = structlog.get_logger(__name__)
GRACE_S = 2
"""For answers under way at the end; the gRPC server, which makes them, has stopped by then."""
STOP_MARGIN_S = 3
"""What uvicorn may take beyond that."""
MAX_MESSAGE_BYTES = 256 * 1024
"""Of one WebSocket message from a client: acks, and prompts of 32768 characters."""


@dataclass(frozen=True)
class HttpServer:
    """A running one."""

    port: int
    backend: Backend

    def leave(self) -> None:
        """The gateway, or this process, goes away: keep no connection open beyond its answer."""
        self.backend.leaving.set()


@dataclass(frozen=True)
class InnerHttpServer(HttpServer):
    """One in the gateway's process."""

    socket: Path
    """Where it expects the gateway's gRPC server, in plain text; only this process's user gets there."""


@asynccontextmanager
async def serving(
    settings: HttpSettings, tls: TlsSettings, tokens: ResumeTokens, registry: CollectorRegistry
) -> AsyncIterator[InnerHttpServer | None]:
    """For as long as the block lasts; None: off. Raises InvalidConfig."""
    if settings.port is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="cascade-") as folder:  # of mode 0700
        path = Path(folder) / "grpc.sock"
        backend = Backend(settings, tokens, OwnGateway(path))
        async with listening(settings, tls, backend, registry) as port:
            yield InnerHttpServer(port, backend, path)


@asynccontextmanager
async def listening(
    settings: HttpSettings,
    tls: TlsSettings,
    backend: Backend,
    registry: CollectorRegistry,
    grace_s: int = GRACE_S,
    hurried: asyncio.Event | None = None,
) -> AsyncIterator[int]:
    """The port, for as long as the block lasts; `settings.port` is not None. Then answers under way have
    `grace_s`, unless somebody is in a hurry. Closes `backend`. Raises InvalidConfig."""
    assert settings.port is not None
    try:
        with contextlib.ExitStack() as stack:
            listeners = await open_port(settings.host, settings.port)
            for listener in listeners:
                stack.callback(listener.close)
            async with uvicorn_running(settings, tls, backend, registry, listeners, grace_s, hurried):
                port = listeners[0].getsockname()[1]
                log.info("listening for http", host=settings.host, port=port)
                yield port
    finally:
        await backend.close()


@asynccontextmanager
async def uvicorn_running(
    settings: HttpSettings,
    tls: TlsSettings,
    backend: Backend,
    registry: CollectorRegistry,
    listeners: list[socket.socket],
    grace_s: int,
    hurried: asyncio.Event | None,
) -> AsyncIterator[None]:
    contexts = tls_contexts(tls)
    config = BoundedConfig(
        make_app(backend, registry),
        http=BoundedProtocol,
        ws=BoundedSocket,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        log_level="warning",  # below it, each WebSocket's query with its token is written
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=grace_s,
        ssl_context_factory=(lambda *_: renewing(contexts)) if contexts else None,
        h11_max_incomplete_event_size=settings.max_header_bytes,
    )
    config.bounds, config.crowd = settings, backend.crowd
    config.knows_certificates = backend.gateway.knows_certificates
    server = QuietServer(config)
    serve = asyncio.create_task(server.serve(listeners), name="http")
    waiting = asyncio.create_task(server.listening.wait())
    await first_of((serve, waiting))
    waiting.cancel()
    if serve.done():
        serve.result()
    try:
        yield
    finally:
        server.should_exit = True
        hurry = asyncio.create_task((hurried or asyncio.Event()).wait())
        ends = (serve, hurry)
        await first_of(ends, grace_s + STOP_MARGIN_S)
        for task in ends:
            task.cancel()
        await asyncio.wait(ends)


async def open_port(host: str, port: int) -> list[socket.socket]:
    """Raises InvalidConfig."""
    try:
        return await asyncio.to_thread(listen, host, port)
    except OSError:
        text = f"http.host, http.port: {join(host, port)} is taken, or no address of this machine"
        raise InvalidConfig(text) from None


def tls_contexts(tls: TlsSettings) -> WatchedFiles[ssl.SSLContext] | None:
    """None: plain text. Another object when files have changed. Raises InvalidConfig."""
    if tls.certificate is None or tls.key is None:
        return None
    certificate, key, ca = tls.certificate, tls.key, tls.ca

    def load() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if ca:
            context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ValueError) as error:
            raise InvalidConfig(f"tls: {certificate}, {key}: {error}") from None
        return context

    files: Sequence[Path] = [path for path in (certificate, key, ca) if path]
    return WatchedFiles(files, load)


def renewing(contexts: WatchedFiles[ssl.SSLContext]) -> ssl.SSLContext:
    """A context that hands each handshake over to the newest one, certificate and authorities alike."""

    def hand_over(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = contexts.get()

    first = contexts.get()
    first.sni_callback = hand_over
    return first
