"""The public keys of an identity provider (JSON Web Key Set), from a file or a URL."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

import jwt
import structlog

from cascade_core.errors import InvalidConfig
from services.common.errors import NotReady, Unauthenticated
from services.common.watched import WatchedFiles

ALGORITHMS_OF: Mapping[str, Sequence[str]] = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}
"""By the kind of a key. Never HS*: whoever can check such a token can also make one."""
ALGORITHMS = tuple(name for names in ALGORITHMS_OF.values() for name in names)
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
"""One for each algorithm that a key of the set is for."""


class KeySet(Protocol):
    """Where the keys are."""

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        """The key of that id and for that algorithm; without an id: the only one for it. Raises
        Unauthenticated, or NotReady while there are no keys."""
        ...


class KeyFile:
    """Read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFiles([path], lambda: read_keys(path))

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        found = pick(self._file.get(), kid, algorithm)
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

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        fetching = self._one_at_a_time
        if self._lacks(kid, algorithm) or (self._is_old() and not fetching.locked()):
            async with fetching:
                if (self._lacks(kid, algorithm) or self._is_old()) and self._may_try():
                    await self._fetch()
        if not self._keys:
            raise NotReady("the keys that sign tokens cannot be fetched")
        found = pick(self._keys, kid, algorithm)
        if found is None:
            raise unknown_key()
        return found

    def _lacks(self, kid: str | None, algorithm: str) -> bool:
        return pick(self._keys, kid, algorithm) is None

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
    proxies = [urllib.request.ProxyHandler({})] if url.lower().startswith("http:") else []
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
    """The keys that can check a signature by one of ALGORITHMS; others are left out."""
    try:
        found = json.loads(content)
        every = found["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidConfig(f"auth.jwks: {source}: no JSON Web Key Set, which is JSON with `keys`") from None
    usable = [key for each in every for key in keys_of(each)] if isinstance(every, list) else []
    if not usable:
        names = ", ".join(ALGORITHMS)
        others = "secrets (oct), private keys (d), `use` enc and RSA below 2048 bits do not count"
        raise InvalidConfig(f"auth.jwks: {source}: no key for {names}; {others}")
    return usable


def keys_of(found: Any) -> Keys:
    """One of a set, for each of its algorithms: where it names one, for that alone. Empty: it is of no
    use."""
    if not isinstance(found, dict) or found.get("use") not in (None, "sig") or found.get("crv") == "Ed448":
        return ()
    if "d" in found:  # whoever reads the private half can make tokens
        return ()
    uses = found.get("key_ops")
    if isinstance(uses, list) and "verify" not in uses:
        return ()
    algorithms = ALGORITHMS_OF.get(str(found.get("kty")), ())
    return [
        key
        for algorithm in algorithms
        if found.get("alg") in (None, algorithm) and (key := read_key(found, algorithm))
    ]


def read_key(found: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    """None: it does not fit this algorithm, or is broken."""
    try:
        key = jwt.PyJWK(found, algorithm)
        key.Algorithm.prepare_key(key.key)  # looks at the curve
    except Exception:  # PyJWT and cryptography have many for what can be wrong in a key
        return None
    return key if key.Algorithm.check_key_length(key.key) is None else None


def pick(keys: Keys, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
    """That of this id, else the only one that has none; without an id: the only one for this algorithm."""
    fitting = [key for key in keys if key.algorithm_name == algorithm]
    if kid is not None:
        named = [key for key in fitting if key.key_id == kid]
        if named:
            return named[0]
        fitting = [key for key in fitting if key.key_id is None]
    return fitting[0] if len(fitting) == 1 else None


def unknown_key() -> Unauthenticated:
    return Unauthenticated("this token was not signed by a key that is known here")


def open_key_set(source: str, max_age_s: float) -> KeySet:
    """A file must be readable now; a URL is tried with the first token."""
    return KeyUrl(source, max_age_s) if "://" in source else KeyFile(Path(source))
