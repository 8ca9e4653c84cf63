"""Channels to gateways, and what each call carries."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import grpc

MIB = 2**20
OPTIONS = [
    ("grpc.max_receive_message_length", 9 * MIB),
    ("grpc.max_send_message_length", 4 * MIB),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),  # a hidden retry would not carry the newest token or sequence
    # Else a new channel to the same address shares the connection to the gateway that is going away.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
LOOPBACK = ("localhost:", "127.0.0.1:", "[::1]:")
CLOSE_GRACE_S = 10.0
"""Calls on a channel that was replaced have so long to finish."""


@dataclass(frozen=True)
class Tls:
    """Files in PEM. `Tls()` trusts the system's authorities."""

    ca: Path | None = None
    """Who signs the gateway's certificate; None: the system's authorities."""
    certificate: Path | None = None
    """This client's certificate chain, where the gateway asks for one (mTLS)."""
    key: Path | None = None
    """Its private key."""
    server_name: str | None = None
    """The name to look for in the server's certificate; None: the one in the address."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError for a file that cannot be read."""
        ca, key, chain = (
            path.read_bytes() if path else None for path in (self.ca, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(ca, key, chain)


def open_channel(address: str, tls: Tls | None) -> grpc.aio.Channel:
    """A channel with a connection of its own, made at the first call."""
    options: list[tuple[str, int | str]] = [*OPTIONS, ("grpc.enable_http_proxy", int(not is_local(address)))]
    if tls is None:
        return grpc.aio.insecure_channel(address, options)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return grpc.aio.secure_channel(address, tls.credentials(), options)


def is_local(address: str) -> bool:
    """Whether it is this machine, to which no proxy of the environment leads."""
    return address.startswith(LOOPBACK)


def parse_addresses(target: str) -> list[str]:
    """`host:port[,host:port...]`. Raises ValueError."""
    addresses = [part.strip() for part in target.split(",") if part.strip()]
    for address in addresses or [target]:
        host, _, port = address.rpartition(":")
        if address.startswith(("http://", "https://")):
            bare = address.partition("://")[2].rstrip("/")
            raise ValueError(f"{address!r} is a page's address; a gateway's has no http: {as_example(bare)}")
        if is_ipv6(address) or is_ipv6(host):
            example = f"[{host}]:{port}" if is_ipv6(host) else f"[{address}]:50051"
            raise ValueError(f"{address!r}: an IPv6 address stands in brackets, such as {example}")
        if not (is_host(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{address!r} is no gateway address; it looks like localhost:50051")
    return addresses


def is_host(host: str) -> bool:
    """A name, an address, or one of IPv6 in brackets."""
    if host.startswith("["):
        return host.endswith("]") and is_ipv6(host[1:-1])
    return bool(host) and ("/" in host or not set(host) & set(":[]"))  # the former: a gRPC name


def is_ipv6(text: str) -> bool:
    """Without brackets; with a zone or not."""
    with suppress(ValueError):
        IPv6Address(text)
        return True
    return False


def as_example(bare: str) -> str:
    """The page's port is another than that of gRPC."""
    host, port = re.fullmatch(r"(.*?)(?::(\d+))?", bare.partition("/")[0]).groups()  # type: ignore[union-attr]
    return f"{host}:{port if port not in (None, '80', '443', '8080') else 50051}"


class Channels:
    """The channel for unary calls, and fresh ones for streams; moves to the next address after a failure.

    A gateway behind a load balancer that goes away is reached anew at the same address, by a new connection.
    """

    def __init__(self, addresses: Sequence[str], api_key: str | None, tls: Tls | None) -> None:
        self._addresses = addresses
        self._tls = tls
        self._index = 0
        self._shared: grpc.aio.Channel | None = None
        self.shared_address = self.address
        """Where the channel for unary calls leads."""
        self._closing: set[asyncio.Task[None]] = set()
        self.metadata: tuple[tuple[str, str], ...] = (
            (("authorization", f"Bearer {api_key}"),) if api_key else ()
        )

    @property
    def address(self) -> str:
        """Where the next connection goes."""
        return self._addresses[self._index % len(self._addresses)]

    @property
    def num_others(self) -> int:
        """Addresses besides that one."""
        return len(self._addresses) - 1

    def shared(self) -> grpc.aio.Channel:
        """For unary calls."""
        if self._shared is None:
            self.shared_address = self.address
            self._shared = open_channel(self.address, self._tls)
        return self._shared

    def fresh(self) -> grpc.aio.Channel:
        """For one stream; its owner closes it."""
        return open_channel(self.address, self._tls)

    def move(self, failed: str) -> None:
        """The gateway at this address did not serve: use another connection, to the next address if any."""
        if failed == self.address:
            self._index += 1

    def replace(self, failed: grpc.aio.Channel) -> None:
        """As `move`, for the shared channel; calls that are under way on it may finish."""
        if failed is not self._shared:
            return
        self._shared = None
        self.move(self.shared_address)
        task = asyncio.create_task(failed.close(CLOSE_GRACE_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        channel, self._shared = self._shared, None
        if channel is not None:
            await channel.close()
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
