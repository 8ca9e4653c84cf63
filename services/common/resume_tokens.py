"""Resume tokens: each opens one session in one role, for Connect alone. Nothing of them is stored."""

import hashlib
import hmac
import json
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import jwt
from jwt.utils import base64url_decode, base64url_encode

from cascade_core.errors import InvalidConfig
from services.common.errors import ExpiredCredential, Unauthenticated
from services.common.watched import WatchedFiles

Role = Literal["controller", "viewer"]
ALGORITHM, PURPOSE = "HS256", "cascade-resume"
SIGNER = jwt.PyJWS(algorithms=[ALGORITHM])
MIN_KEY_BYTES = 32
MAX_KEY_BYTES = 2**16
MAX_CHARS = 2048
NUM_KEYS = 4
"""The key in use and those before it, which still verify."""
GARBAGE = (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError)
"""What the parser raises at bytes from a stranger."""


@dataclass(frozen=True)
class ResumeToken:
    """What a token says."""

    session: str
    """Its id, without `sessions/`."""
    tenant: str
    """Whose session it is."""
    role: Role
    """The most that its bearer may be."""
    expires_s: float
    """Seconds since 1970."""


class ResumeTokens:
    """Issues and reads tokens, signed with a key that all gateways share."""

    def __init__(
        self,
        key_file: Path | None,
        ttl_s: float,
        clock: Callable[[], float] = time.time,
        setting: str = "gateway.token_key_file",
        leeway_s: float = 0.0,
    ) -> None:
        """`key_file` None: a key of this process alone. The file is read again when it changes, and tokens
        signed with earlier keys stay good. `leeway_s`: by how much the issuer's clock may differ. Raises
        InvalidConfig, which names the setting."""
        self._file = WatchedFiles([key_file], lambda: read_key(key_file, setting)) if key_file else None
        self._keys = deque([derived(secrets.token_bytes(MIN_KEY_BYTES))], maxlen=NUM_KEYS)
        if self._file:
            self._keys[0] = self._file.get()
        self._ttl_s = ttl_s
        self._clock = clock
        self._leeway_s = leeway_s

    def issue(self, session: str, tenant: str, role: Role, ttl_s: float | None = None) -> tuple[str, float]:
        """The token and when it expires, in seconds since 1970. `ttl_s` None: the usual one."""
        expires_s = self._clock() + (self._ttl_s if ttl_s is None else ttl_s)
        claims = {"aud": PURPOSE, "sub": session, "tenant": tenant, "role": role, "exp": expires_s}
        payload = json.dumps(claims, separators=(",", ":"), ensure_ascii=False).encode()
        token = SIGNER.encode(payload, self._known_keys()[0], ALGORITHM)
        assert len(token) <= MAX_CHARS
        return token, expires_s

    def read(self, token: str) -> ResumeToken:
        """Raises Unauthenticated, ExpiredCredential, and what the clock raises."""
        try:
            found = parse(self._verified(token))
        except GARBAGE:
            raise Unauthenticated("this resume token is damaged, or was not issued here") from None
        if found.expires_s + self._leeway_s <= self._clock():
            raise ExpiredCredential("this resume token has expired")
        return found

    def _verified(self, token: str) -> bytes:
        """The payload, if one of the keys has signed exactly this text."""
        signature = token.rpartition(".")[2].encode()
        if len(token) > MAX_CHARS or base64url_encode(base64url_decode(signature)) != signature:
            raise jwt.DecodeError
        for key in self._known_keys():
            try:
                return bytes(SIGNER.decode(token, key, [ALGORITHM]))
            except jwt.InvalidSignatureError:
                continue
        raise jwt.InvalidSignatureError

    def _known_keys(self) -> deque[bytes]:
        """The newest first."""
        if self._file and (key := self._file.get()) != self._keys[0]:
            if key in self._keys:
                self._keys.remove(key)
            self._keys.appendleft(key)
        return self._keys


def parse(payload: bytes) -> ResumeToken:
    """Raises KeyError, TypeError or ValueError where it is no resume token."""
    claims = json.loads(payload)
    if claims["aud"] != PURPOSE or claims["role"] not in get_args(Role):
        raise ValueError
    return ResumeToken(str(claims["sub"]), str(claims["tenant"]), claims["role"], float(claims["exp"]))


def read_key(path: Path, setting: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise InvalidConfig(f"{setting}: {path}: {error.strerror}") from None
    if not MIN_KEY_BYTES <= len(content) <= MAX_KEY_BYTES:
        raise InvalidConfig(f"{setting}: {path}: must have {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes")
    return derived(content)


def derived(secret: bytes) -> bytes:
    """The signing key: of this purpose alone, whatever form the secret has."""
    return hmac.digest(secret, PURPOSE.encode(), hashlib.sha256)
