"""Clients of the Redis that `gateway.redis_url` names: one server, or the primary that Sentinel names.

Files are read for each new connection, so a certificate or a password that is renewed needs no restart.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from cascade_core.errors import InvalidConfig
from services.gateway.base.settings import GatewaySettings

SENTINEL = "+sentinel"
SENTINEL_PORT = 26379
SENTINEL_S = 0.3
"""For each Sentinel to answer: a call to Redis has a second in all, and the first Sentinel may be gone."""
UNREADABLE = (
    "gateway.redis_url: must be redis://USER:PASSWORD@HOST:PORT/0, with rediss:// for TLS, unix:///PATH, or "
    "redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME; USER and PASSWORD percent-encoded"
)


@dataclass(frozen=True)
class RedisFiles:
    """Files beside the address. None: what the address says itself."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    password: Path | None = None

    def tls(self) -> dict[str, str]:
        """As redis-py names them."""
        named = {"ssl_ca_certs": self.ca, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        return {name: str(path) for name, path in named.items() if path}


class PasswordFile(CredentialProvider):
    """Read for each connection."""

    def __init__(self, user: str | None, path: Path) -> None:
        self._user = user
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Raises AuthenticationError, which is retried as Redis's own is."""
        try:
            password = self._path.read_text().rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise AuthenticationError(f"gateway.redis_password_file: {error}") from None
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


class RenewedTls(SSLConnection):
    """Reads its files for each connection; redis-py reads them for the first alone."""

    async def connect(self) -> None:
        if not self.is_connected:
            self.ssl_context.context = None
        await cast(Any, super()).connect()


class RenewedTlsBySentinel(SentinelManagedConnection, RenewedTls):
    """To the primary that Sentinel tells."""


def connect_by(settings: GatewaySettings) -> Redis:
    """Raises InvalidConfig."""
    assert settings.redis_url
    own = (settings.redis_ca, settings.redis_certificate, settings.redis_key, settings.redis_password_file)
    return connect(settings.redis_url, RedisFiles(*own))


def connect(url: str, files: RedisFiles = RedisFiles()) -> Redis:
    """The journal retries, the client does not. Raises InvalidConfig, without the URL, which may hold a
    password."""
    try:
        scheme, rest = url.split("://", 1)
        is_by_sentinel = scheme in (f"redis{SENTINEL}", f"rediss{SENTINEL}")
        client = by_sentinel(scheme, rest, files) if is_by_sentinel else by_address(url, files)
        made = cast(Any, client.connection_pool).make_connection()  # what the URL asks for is looked at here
        client.connection_pool.connection_kwargs.get("host", "").encode("idna")
    except InvalidConfig:
        raise
    except (ValueError, TypeError):
        raise InvalidConfig(UNREADABLE) from None
    if isinstance(made, SSLConnection):
        try:
            made.ssl_context.get()
        except (OSError, ValueError) as error:
            raise InvalidConfig(f"gateway.redis_ca, redis_certificate, redis_key: {error}") from None
    elif files.tls():
        raise InvalidConfig("gateway.redis_ca, redis_certificate, redis_key: redis_url must be rediss://")
    return client


def by_address(url: str, files: RedisFiles) -> Redis:
    """For one server. Raises ValueError, InvalidConfig."""
    return Redis.from_pool(ConnectionPool(**options_of(url, files)))


def by_sentinel(scheme: str, rest: str, files: RedisFiles) -> Redis:
    """From `[USER:PASSWORD@]HOST[:PORT],.../NAME[/DB][?...]`. Raises ValueError, InvalidConfig."""
    parts = urlsplit(f"//{rest}")
    login, at, hosts = parts.netloc.rpartition("@")
    name, _, db = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError
    plain = (scheme.removesuffix(SENTINEL), f"{login}{at}primary", f"/{db}", parts.query, "")
    options = options_of(urlunsplit(plain), files)
    own = {key: options.pop(f"sentinel_{key}", None) for key in ("username", "password")}
    is_tls = options.pop("connection_class", None) is RenewedTls
    tls = {key: value for key, value in options.items() if key.startswith("ssl_")} | {"ssl": is_tls}
    waits = {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S, "retry": options["retry"]}
    del options["host"]
    addresses = [host_of(host) for host in hosts.split(",")]
    sentinel = cast(Any, Sentinel)(addresses, sentinel_kwargs=waits | own | tls, **options)
    if is_tls:
        for each in sentinel.sentinels:
            each.connection_pool.connection_class = RenewedTls
    kind = RenewedTlsBySentinel if is_tls else SentinelManagedConnection
    client: Redis = sentinel.master_for(name, connection_class=kind)
    return client


async def close(client: Redis) -> None:
    """Close the client, and its connections to Sentinels."""
    await client.aclose()
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        for each in pool.sentinel_manager.sentinels:
            await each.aclose()


def options_of(url: str, files: RedisFiles) -> dict[str, Any]:
    """A connection's, as redis-py names them. Raises ValueError, InvalidConfig."""
    options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "socket_timeout": None, **parse_url(url)}
    if options.get("connection_class") is SSLConnection:
        options |= {"connection_class": RenewedTls, **files.tls()}
    if files.password and "password" in options:
        raise InvalidConfig("gateway.redis_password_file: redis_url has a password too; leave one out")
    if files.password:
        options["credential_provider"] = PasswordFile(options.pop("username", None), files.password)
    return options


def host_of(text: str) -> tuple[str, int]:
    """Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    parts.hostname.encode("idna")
    return parts.hostname, parts.port or SENTINEL_PORT
