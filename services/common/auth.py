"""Who calls: one Authenticator per process, chosen by `AuthSettings`. Tokens are never logged."""

import hashlib
import hmac
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT, make
from cascade_core.errors import InvalidConfig
from services.common.call import ANONYMOUS, Principal
from services.common.errors import Unauthenticated
from services.common.settings import AuthSettings
from services.common.watched import Watched

MAX_TOKEN_CHARS = 8192


class Authenticator(Protocol):
    """Tells from a call's headers who calls."""

    async def authenticate(self, metadata: Mapping[str, str]) -> Principal:
        """Raises Unauthenticated."""
        ...


class Everybody:
    """No credentials asked: the network or mTLS decides who reaches the port."""

    async def authenticate(self, metadata: Mapping[str, str]) -> Principal:
        return ANONYMOUS


@dataclass(frozen=True, config=STRICT)
class ApiKey:
    """One entry of the keys file."""

    name: Annotated[str, Field(min_length=1)]
    """For logs and quotas."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the key, in hex: whoever reads the file cannot call with it. Keys must be random (32 bytes), since
    a plain hash does not protect guessable ones."""
    tenant: Annotated[str, Field(min_length=1)] = "default"
    """Whose sessions it sees."""


@dataclass(frozen=True, config=STRICT)
class KeysFile:
    keys: tuple[ApiKey, ...]
    """None left: nobody may call."""


class ApiKeys:
    """Static keys, as `authorization: Bearer KEY`. The file is read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._file = Watched([path], lambda: load_keys(path))

    async def authenticate(self, metadata: Mapping[str, str]) -> Principal:
        presented = hashlib.sha256(bearer(metadata).encode()).hexdigest()
        found: ApiKey | None = None
        for key in self._file.get().keys:  # always all of them, so that time tells nothing
            if hmac.compare_digest(key.sha256, presented):
                found = key
        if found is None:
            raise Unauthenticated("this API key is not known")
        return Principal(found.name, found.tenant)


def bearer(metadata: Mapping[str, str]) -> str:
    """The token of the authorization header."""
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_CHARS:
        raise Unauthenticated("send `authorization: Bearer KEY`")
    return token


def load_keys(path: Path) -> KeysFile:
    try:
        return make(KeysFile, tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, InvalidConfig) as error:
        raise InvalidConfig(f"auth.keys_file: {path}: {error}") from None


def make_authenticator(settings: AuthSettings) -> Authenticator:
    return ApiKeys(settings.keys_file) if settings.keys_file else Everybody()
