"""The public keys of an identity provider (JSON Web Key Set), from a file or a URL."""

import asyncio
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

import jwt
import structlog

from cascade_core.errors import InvalidConfig
from services.common.errors import NotReady, Unauthenticated
from services.common.watched import WatchedFiles

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""Never HS*: whoever can check such a token can also make one."""
STEP_TIMEOUT_S = 5.0
"""Of each step of a fetch: to connect, to answer, to send the body."""
FETCH_TIMEOUT_S = 10.0
"""Of the whole fetch, as a caller waits for it."""
FETCH_INTERVAL_S = 30.0
"""Least time between fetches: strangers choose the key ids that we are asked for."""
FIRST_FETCH_INTERVAL_S = 5.0
"""The same while there is no key at all."""
MAX_BYTES = 2**20
MAX_CHUNK_BYTES = 2**16
log = structlog.get_logger(__name__)
Keys = Sequence[jwt.PyJWK]


class KeySet(Protocol):
    """Where the keys are."""

    async def find(self, kid: str | None) -> jwt.PyJWK:
        """The key of that id; without an id: the only one. Raises Unauthenticated, or NotReady while there
        are no keys."""
        ...


class KeyFile:
    """Read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFiles([path], lambda: read_keys(path))

    async def find(self, kid: str | None) -> jwt.PyJWK:
        found = pick(self._file.get(), kid)
        if found is None:
            raise unknown_key()
        return found


class KeyUrl:
    """Fetched for the first token, for an unknown key id, and when old; a failed fetch changes nothing."""

    def __init__(self, url: str, max_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._max_age_s = max_age_s
        self._clock = clock
        self._keys: Keys = ()
        self._fetched_at = self._tried_at = -float("inf")
        self._one_at_a_time = asyncio.Lock()

    async def find(self, kid: str | None) -> jwt.PyJWK:
        fetching = self._one_at_a_time
        if self._lacks(kid) or (self._is_old() and not fetching.locked()):
            async with fetching:
                if (self._lacks(kid) or self._is_old()) and self._may_try():
                    await self._fetch()
        if not self._keys:
            raise NotReady("the keys that sign tokens cannot be fetched")
        found = pick(self._keys, kid)
        if found is None:
            raise unknown_key()
        return found

    def _lacks(self, kid: str | None) -> bool:
        return pick(self._keys, kid) is None

    def _is_old(self) -> bool:
        return self._clock() - self._fetched_at > self._max_age_s

    def _may_try(self) -> bool:
        interval_s = FETCH_INTERVAL_S if self._keys else FIRST_FETCH_INTERVAL_S
        return self._clock() - self._tried_at >= interval_s

    async def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            await asyncio.wait_for(asyncio.to_thread(self._load), FETCH_TIMEOUT_S)
        except (OSError, ValueError, HTTPException, InvalidConfig) as error:
            log.error("signing keys not fetched", url=self._url, error=repr(error), kept=len(self._keys))

    def _load(self) -> None:
        """In a thread; the keys count even when the caller that asked for them has left."""
        started = self._clock()
        self._keys = fetch_keys(self._url)
        self._fetched_at = started


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to plain HTTP; an address that moved is the operator's to mend."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def fetch_keys(url: str) -> Keys:
    """Blocking. Raises OSError, ValueError, HTTPException or InvalidConfig."""
    proxies = [urllib.request.ProxyHandler({})] if url.startswith("http:") else []
    opener = urllib.request.build_opener(NoRedirects, *proxies)
    body, deadline = bytearray(), time.monotonic() + STEP_TIMEOUT_S
    with opener.open(url, timeout=STEP_TIMEOUT_S) as answer:
        while chunk := answer.read1(MAX_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_BYTES or time.monotonic() > deadline:
                raise OSError(f"too large or too slow: {len(body)} bytes so far")
    return parse_keys(bytes(body), url)


def read_keys(path: Path) -> Keys:
    try:
        return parse_keys(path.read_bytes(), str(path))
    except OSError as error:
        raise InvalidConfig(f"auth.jwks: {path}: {error.strerror}") from None


def parse_keys(content: bytes, source: str) -> Keys:
    """The keys that can check a signature by one of ALGORITHMS."""
    try:
        every = jwt.PyJWKSet.from_json(content.decode()).keys
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidConfig(f"auth.jwks: {source}: no key set: {error}") from None
    usable = tuple(key for key in every if is_usable(key))
    if not usable:
        raise InvalidConfig(f"auth.jwks: {source}: no key for {', '.join(ALGORITHMS)} that is long enough")
    return usable


def is_usable(key: jwt.PyJWK) -> bool:
    is_for_signatures = key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig")
    return is_for_signatures and key.Algorithm.check_key_length(key.key) is None


def pick(keys: Keys, kid: str | None) -> jwt.PyJWK | None:
    """Without an id: the only key."""
    if kid is None:
        return keys[0] if len(keys) == 1 else None
    return next((key for key in keys if key.key_id == kid), None)


def unknown_key() -> Unauthenticated:
    return Unauthenticated("this token was not signed by a key that is known here")


def open_key_set(source: str, max_age_s: float) -> KeySet:
    """A file must be readable now; a URL is tried with the first token."""
    return KeyUrl(source, max_age_s) if "://" in source else KeyFile(Path(source))
