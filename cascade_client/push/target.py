"""Where a video is sent to. Addresses may hold a secret, such as a stream key, which is never shown."""

from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

Protocol = Literal["rtmp", "rtmps", "srt", "http", "https"]
"""The last two: WHIP, which is how WebRTC is published over HTTP (RFC 9725)."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


@dataclass(frozen=True)
class Target:
    """A receiver."""

    url: str = field(repr=False)
    token: str = field(default="", repr=False)
    """What a WHIP endpoint asks for (`Authorization: Bearer`)."""

    def __post_init__(self) -> None:
        """Raises ValueError, which says what is wrong without the address's secrets."""
        if self.protocol not in PROTOCOLS:
            raise ValueError("the address has to begin with rtmp://, rtmps://, srt://, http:// or https://")
        if not self.host:
            raise ValueError(f"the address names no host behind {self.protocol}://")
        if self.token and not self.is_whip:
            raise ValueError("a token is for http:// and https:// (WHIP)")

    @property
    def protocol(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        """With the port, without user and password."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def is_whip(self) -> bool:
        return self.protocol.startswith("http")

    @property
    def shown(self) -> str:
        """For people: without what may be secret."""
        return f"{self.protocol}://{self.host}"

    def hide_in(self, text: str) -> str:
        """What a library says, without the secrets that it repeats."""
        secrets = [self.url, urlsplit(self.url).path.rpartition("/")[2], urlsplit(self.url).query, self.token]
        for secret in filter(None, secrets):
            text = text.replace(secret, "...")
        return text
