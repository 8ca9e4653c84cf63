"""One RPC as the interceptors and handlers see it."""

import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc

HEALTH = "/grpc.health.v1.Health/"
WORD = re.compile(r"[\w.:-]{1,128}")
REQUEST_ID, SESSION, EPOCH = "x-request-id", "cascade-session", "cascade-epoch"
CERTIFICATE = "cascade-certificate-name-bin"
"""The name in a certificate that this process has verified, in a call of its own over a Unix socket."""
OWN_PEER = "unix:"
ON_BEHALF = "cascade-on-behalf"
"""In a call that somebody makes for another: the certificate of the connection is then not the caller's. It
only takes rights away, so it is believed of everybody."""


@dataclass(frozen=True)
class Principal:
    """Who calls."""

    name: str
    """For logs and quotas."""
    tenant: str
    """Whose sessions it sees."""


ANONYMOUS = Principal("anonymous", "default")
NOBODY = Principal("nobody", "")
"""A caller without a credential, in a method that lets it in to show one there; of no tenant."""


@dataclass
class Call:
    """What is known of a call; lives as long as its handler."""

    method: str
    """`/package.Service/Method`."""
    context: grpc.aio.ServicerContext[Any, Any]
    streams_requests: bool
    streams_responses: bool
    metadata: dict[str, str] = field(default_factory=dict)
    """Text headers, the last of each name."""
    principal: Principal = ANONYMOUS
    code: grpc.StatusCode | None = None
    """How it ended; set by ErrorInterceptor."""

    def __post_init__(self) -> None:
        pairs = self.context.invocation_metadata() or ()
        self.metadata = {key: value for key, value in pairs if isinstance(value, str)}
        self.request_id = self.word(REQUEST_ID) or uuid4().hex

    @property
    def certificate_names(self) -> list[str]:
        """Names in the client certificate that TLS has verified, the best first: URIs, DNS names, CN."""
        if self.context.peer().startswith(OWN_PEER):
            pairs = self.context.invocation_metadata() or ()
            return [value.decode() for key, value in pairs if key == CERTIFICATE and isinstance(value, bytes)]
        if ON_BEHALF in self.metadata:
            return []
        seen = self.context.auth_context()
        kinds = ("peer_uri", "peer_dns", "x509_common_name")
        return [name.decode(errors="replace") for kind in kinds for name in seen.get(kind, ())]

    @property
    def is_health(self) -> bool:
        """Health answers whatever happens: no credentials, no bounds, no noise in the log."""
        return self.method.startswith(HEALTH)

    @property
    def is_stream(self) -> bool:
        return self.streams_requests or self.streams_responses

    @property
    def service(self) -> str:
        return self.method.split("/")[1]

    @property
    def name(self) -> str:
        """The method without its service."""
        return self.method.rsplit("/", 1)[1]

    @property
    def kind(self) -> str:
        """In the words of the usual gRPC dashboards."""
        kinds = {(False, False): "unary", (True, False): "client_stream", (False, True): "server_stream"}
        return kinds.get((self.streams_requests, self.streams_responses), "bidi_stream")

    def word(self, key: str) -> str | None:
        """A header that a stranger sent, if it is harmless in a log."""
        value = self.metadata.get(key, "")
        return value if WORD.fullmatch(value) else None


_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """The call whose handler is running."""
    return _current.get()


def set_current_call(call: Call) -> None:
    """Each RPC runs in a task, and so in a context, of its own: there is nothing to reset."""
    _current.set(call)
