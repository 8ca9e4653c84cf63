"""Who calls: one Authenticator per process, chosen by `AuthSettings`. Tokens are never logged."""

import hashlib
import hmac
import tomllib
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeGuard

import jwt
from pydantic import Field
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT, make
from cascade_core.errors import InvalidConfig
from services.common.call import ANONYMOUS, Call, Principal
from services.common.claims import find_claim, is_meant_for, one_text
from services.common.durations import LEEWAY_S
from services.common.errors import ExpiredCredential, Unauthenticated
from services.common.jwks import ALGORITHMS, open_key_set
from services.common.settings import AuthSettings, TlsSettings
from services.common.watched import WatchedFiles

AUTHORIZATION = "authorization"
MAX_TOKEN_CHARS = 24 * 1024
"""Microsoft Entra's with a user's groups have 10,000. It leaves room in the 32 KiB of all headers."""
MAX_NAME_CHARS, MAX_TENANT_CHARS = 255, 128
GARBAGE = (jwt.PyJWTError, ValueError, TypeError, RecursionError)
"""What the parser raises at bytes from a stranger."""


class Authenticator(Protocol):
    """Tells who calls."""

    async def authenticate(self, call: Call) -> Principal:
        """Raises Unauthenticated, ExpiredCredential, or NotReady where it cannot tell now."""
        ...


class Everybody:
    """No credentials are asked for: the network or mTLS decides who reaches the port."""

    async def authenticate(self, call: Call) -> Principal:
        return ANONYMOUS


@dataclass(frozen=True, config=STRICT)
class ApiKey:
    """One entry of the keys file."""

    name: Annotated[str, Field(min_length=1)]
    """For logs and quotas."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the key, in hex: whoever reads the file cannot call with it. Keys must be random (32 bytes), since
    a plain hash does not protect guessable ones."""
    tenant: Annotated[str, Field(min_length=1, max_length=MAX_TENANT_CHARS)] = "default"
    """Whose sessions it sees."""


@dataclass(frozen=True, config=STRICT)
class KeysFile:
    keys: tuple[ApiKey, ...]
    """Empty: nobody may call."""


class ApiKeys:
    """Static keys, as `authorization: Bearer KEY`. The file is read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFiles([path], lambda: load_keys(path))

    async def authenticate(self, call: Call) -> Principal:
        presented = hashlib.sha256(bearer(call).encode()).hexdigest()
        found: ApiKey | None = None
        for key in self._file.get().keys:  # always all of them, so that time tells nothing
            if hmac.compare_digest(key.sha256, presented):
                found = key
        if found is None:
            raise Unauthenticated("this API key is not known")
        return Principal(found.name, found.tenant)


class Tokens:
    """JSON Web Tokens of an identity provider, as `authorization: Bearer TOKEN`."""

    def __init__(self, settings: AuthSettings) -> None:
        assert settings.jwks
        self._settings = settings
        self._keys = open_key_set(settings.jwks, settings.jwks_max_age_s)

    async def authenticate(self, call: Call) -> Principal:
        token = bearer(call)
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise jwt.InvalidAlgorithmError
            key = await self._keys.find(header.get("kid"), header["alg"])
            return self._principal(self._claims(token, key))
        except jwt.ExpiredSignatureError:
            raise ExpiredCredential("this token has expired") from None
        except GARBAGE:
            raise Unauthenticated("this token is not valid here") from None

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            issuer=self._settings.issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iss", "sub"], "verify_aud": False},
        )

    def _principal(self, claims: dict[str, Any]) -> Principal:
        settings = self._settings
        if not is_meant_for(claims, settings.audience_claims, settings.audience):
            raise jwt.InvalidAudienceError
        name, tenant = claims["sub"], one_text(find_claim(claims, settings.tenant_claim))
        if not is_name(name, MAX_NAME_CHARS) or not is_name(tenant, MAX_TENANT_CHARS):
            raise jwt.InvalidTokenError
        return Principal(name, tenant)


class Certificates:
    """The name in the client certificate that TLS has verified."""

    async def authenticate(self, call: Call) -> Principal:
        name = next((name for name in call.certificate_names if is_name(name, MAX_NAME_CHARS)), None)
        if name is None:
            raise Unauthenticated("the connection has no client certificate with a name")
        return Principal(name, ANONYMOUS.tenant)


class AnyOf:
    """A token where one is sent, else a key, else the certificate: each where it is a mode."""

    def __init__(self, settings: AuthSettings) -> None:
        self._keys = ApiKeys(settings.keys_file) if settings.keys_file else None
        self._tokens = Tokens(settings) if settings.jwks else None
        self._certificates = Certificates() if "mtls" in settings.modes else None

    async def authenticate(self, call: Call) -> Principal:
        return await self._for(call).authenticate(call)

    def _for(self, call: Call) -> Authenticator:
        by_bearer: list[Authenticator] = [mode for mode in (self._tokens, self._keys) if mode]
        if self._certificates and (AUTHORIZATION not in call.metadata or not by_bearer):
            return self._certificates
        is_token = call.metadata.get(AUTHORIZATION, "").count(".") == 2
        return by_bearer[0 if is_token else -1]


def bearer(call: Call) -> str:
    """The key or token of the authorization header. Raises Unauthenticated."""
    scheme, _, token = call.metadata.get(AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("send `authorization: Bearer` with a key or a token")
    if len(token) > MAX_TOKEN_CHARS:
        text = f"this token has {len(token)} characters; {MAX_TOKEN_CHARS} are taken at most"
        raise Unauthenticated(text)
    return token


def is_name(value: object, max_chars: int) -> TypeGuard[str]:
    """Fit for logs and keys."""
    return isinstance(value, str) and 0 < len(value) <= max_chars and value.isprintable()


def load_keys(path: Path) -> KeysFile:
    try:
        return make(KeysFile, tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, InvalidConfig) as error:
        raise InvalidConfig(f"auth.keys_file: {path}: {error}") from None


def make_authenticator(settings: AuthSettings, tls: TlsSettings) -> Authenticator:
    """Raises InvalidConfig."""
    if "mtls" in settings.modes and tls.ca is None:
        raise InvalidConfig("auth.modes: mtls needs tls.ca, the authority of client certificates")
    return AnyOf(settings) if settings.modes else Everybody()
