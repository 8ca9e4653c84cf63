"""Who gets in, by which credential, and what is told to those who do not."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.common import jwks
from services.common.auth import load_keys
from services.common.call import CERTIFICATE
from services.common.channel import open_channel
from services.common.environment import load_settings
from services.common.errors import NotReady, Unauthenticated
from services.common.jwks import FETCH_INTERVAL_S, KeyUrl
from services.common.server import running
from services.common.settings import AuthSettings, ClientTlsSettings, GrpcSettings, ServerSettings
from tests.services.common.test_errors import parts
from tests.services.support.certificates import Authority, begin, name_of, write
from tests.services.support.echo import CHAT, SAY, WAIT_S, Echo, chat, exchange, say, serving, settings
from tests.services.support.jwks_server import AUDIENCE, ISSUER, Issuer, claims_now, key_server

OPEN = {"open_without_credentials": [SAY]}


def bearer(token: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {token}"),)}


async def answer(channel: grpc.aio.Channel, **call: Any) -> str:
    """`tenant/name` of the caller, or the reason of the refusal."""
    try:
        return await say(channel, "who", **call)
    except grpc.aio.AioRpcError as error:
        return str(parts(error)["ErrorInfo"].reason)


def by_tokens(source: Path | str) -> dict[str, Any]:
    return {"modes": ["jwt"], "jwks": str(source), "issuer": ISSUER, "audience": AUDIENCE}


def by_keys(folder: Path, **keys: str) -> dict[str, Any]:
    path = folder / "keys.toml"
    entries = [
        f'[[keys]]\nname = "{name}"\ntenant = "acme"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'
        for name, key in keys.items()
    ]
    path.write_text("".join(entries))
    return {"modes": ["api_keys"], "keys_file": path}


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer("RS256", "ES256", "EdDSA")


@pytest.fixture
def key_file(issuer: Issuer, tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(issuer.key_set())
    return path


async def test_tokens_of_each_algorithm_let_their_tenant_in(tmp_path: Path) -> None:
    issuer, path = Issuer(*jwks.ALGORITHMS), tmp_path / "jwks.json"
    path.write_text(issuer.key_set())
    async with serving(Echo(), auth=by_tokens(path)) as (_, channel):
        for kid in issuer.secrets:
            assert await answer(channel, **bearer(issuer.token(kid))) == "acme/ann", kid
        stream = chat(channel, **bearer(issuer.token("key-ES256")))
        assert await exchange(stream, "a") == "a"
        stream.cancel()
        several = issuer.token("key-ES256", aud=["other", AUDIENCE], sub="bob", tenant="umbrella")
        assert await answer(channel, **bearer(several)) == "umbrella/bob"
        late = issuer.token("key-ES256", exp=time.time() - 5)
        assert await answer(channel, **bearer(late)) == "acme/ann", "clocks may differ by half a minute"


BAD_CLAIMS: list[dict[str, Any]] = [
    {"iss": "https://evil.test"},
    {"iss": None},
    {"aud": "another"},
    {"aud": None},
    {"aud": []},
    {"sub": None},
    {"sub": ""},
    {"sub": "a\nb"},
    {"sub": "x" * 300},
    {"tenant": None},
    {"tenant": ""},
    {"tenant": 7.0},
    {"tenant": True},
    {"tenant": ["acme", "umbrella"]},
    {"tenant": []},
    {"tenant": [["acme"]]},
    {"tenant": {"acme": 1}},
    {"aud": {"cascade": 1}},
    {"aud": [["cascade"], None]},
    {"aud": "cascade "},
    {"tenant": "x" * 129},
    {"tenant": "\ud800"},
    {"exp": None},
    {"exp": "soon"},
    {"nbf": time.time() + 3600},
    {"iat": time.time() + 3600},
]


async def test_tokens_with_other_claims_are_refused_and_nothing_is_told(
    issuer: Issuer, key_file: Path
) -> None:
    async with serving(Echo(), auth=by_tokens(key_file)) as (_, channel):
        for claims in BAD_CLAIMS:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await say(channel, "who", **bearer(issuer.token("key-ES256", **claims)))
            assert parts(caught.value)["ErrorInfo"].reason == "UNAUTHENTICATED", claims
            assert caught.value.details() == "this token is not valid here", claims
        expired = issuer.token("key-ES256", exp=time.time() - 60)
        assert await answer(channel, **bearer(expired)) == "EXPIRED_CREDENTIAL"
        assert await answer(channel, **bearer(issuer.token("key-ES256"))) == "acme/ann"


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


async def test_other_algorithms_and_other_keys_are_refused(issuer: Issuer, key_file: Path) -> None:
    claims, stranger = claims_now(), Issuer("ES256")
    public = issuer.secrets["key-RS256"][1].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    confused = hmac_token(claims, pem)
    forged = {
        "unsigned": f"{encoded({'alg': 'none', 'kid': 'key-ES256'})}.{encoded(claims)}.",
        "signed with the public key": confused,
        "another's key of the same name": stranger.token("key-ES256"),
        "the key of another algorithm": issuer.token("key-ES256", headers={"kid": "key-RS256"}),
        "another algorithm than the key's": issuer.token("key-RS256", algorithm="RS512"),
        "an algorithm we do not take": secp256k1_token(claims),
        "an unknown key": issuer.token("key-ES256", headers={"kid": "key-9"}),
        "no key named, and not the only one's": jwt.encode(claims, stranger.secrets["key-ES256"][1], "ES256"),
        "brings its own key": stranger.token("key-ES256", headers={"jwk": stranger.public[0]}),
        "tells where its key is": stranger.token("key-ES256", headers={"jku": "https://evil.test/keys"}),
        "asks for what nobody knows": issuer.token("key-ES256", headers={"crit": ["x"], "x": 1}),
        "deep nesting": f"{encoded({'alg': 'ES256'})}.{'W' * 6000}.x",
        "no header": "..",
    }
    async with serving(Echo(), auth=by_tokens(key_file)) as (_, channel):
        for name, token in forged.items():
            assert await answer(channel, **bearer(token)) == "UNAUTHENTICATED", name
        assert await answer(channel) == "UNAUTHENTICATED"
        assert await answer(channel, **bearer(issuer.token("key-RS256"))) == "acme/ann"


def secp256k1_token(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, ec.generate_private_key(ec.SECP256K1()), "ES256K", {"kid": "key-ES256"})


def hmac_token(claims: dict[str, Any], secret: bytes) -> str:
    """PyJWT itself refuses to sign with a public key."""
    start = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'key-RS256'})}.{encoded(claims)}"
    signature = base64.urlsafe_b64encode(hmac.digest(secret, start.encode(), "sha256"))
    return f"{start}.{signature.decode().rstrip('=')}"


SECRET = {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 64).decode(), "alg": "HS256"}


def useless_keys(good: dict[str, Any]) -> list[Any]:
    """`good`: a public key of ES256."""
    rsa, okp = jwt.algorithms.RSAAlgorithm, jwt.algorithms.OKPAlgorithm
    private = [
        rsa.to_jwk(generate_private_key(65537, 2048), as_dict=True),
        jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True),
        okp.to_jwk(ed25519.Ed25519PrivateKey.generate(), as_dict=True),
    ]
    return [
        *private,
        rsa.to_jwk(generate_private_key(65537, 1024).public_key(), as_dict=True),
        okp.to_jwk(ed448.Ed448PrivateKey.generate().public_key(), as_dict=True),
        SECRET,
        {**SECRET, "alg": "ES256"},
        {**good, "use": "enc"},
        {**good, "key_ops": ["deriveKey"]},
        {**good, "alg": "ES384"},
        {**good, "alg": "ECDH-ES"},
        {**good, "alg": "none"},
        {**good, "crv": "secp256k1"},
        {**good, "kty": "RSA"},
        {**good, "kty": "AKP"},
        {**good, "kty": ["EC"]},
        {**good, "x": 7},
        {**good, "x": "!"},
        {**good, "y": good["x"]},
        {"kty": "EC"},
        {},
        None,
        "key",
    ]


async def test_useless_keys_do_not_spoil_the_rest_of_a_set(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    good = next(key for key in issuer.public if key["alg"] == "ES256")
    useless = useless_keys(good)
    path.write_text(json.dumps({"keys": [*useless, good]}))
    async with serving(Echo(), auth=by_tokens(path)) as (_, channel):
        assert await answer(channel, **bearer(issuer.token("key-ES256"))) == "acme/ann"
        unnamed = jwt.encode(claims_now(), issuer.secrets["key-ES256"][1], "ES256")
        assert await answer(channel, **bearer(unnamed)) == "acme/ann"
    for keys in ([], useless, *([key] for key in useless)):
        path.write_text(json.dumps({"keys": keys}))
        with pytest.raises(InvalidConfig, match=r"auth\.jwks: .*jwks\.json: no key for RS256.*oct.*private"):
            jwks.KeyFile(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"7",
        b"[" * 100_000,
        b"\xff",
        b'{"keys": 7}',
        b'{"kty": "EC"}',
        b"-----BEGIN KEY-----",
    ],
)
def test_what_is_no_key_set_ends_the_start(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"auth\.jwks: .*jwks\.json: no (JSON Web Key Set|key for)"):
        jwks.KeyFile(path)


async def test_a_key_without_algorithm_is_for_all_of_its_kind(issuer: Issuer, tmp_path: Path) -> None:
    """As Microsoft Entra's are."""
    path = tmp_path / "jwks.json"
    keys = [{name: key[name] for name in key if name not in ("alg", "use")} for key in issuer.public]
    path.write_text(json.dumps({"keys": keys}))
    async with serving(Echo(), auth=by_tokens(path)) as (_, channel):
        for algorithm in jwks.ALGORITHMS_OF["RSA"]:
            token = issuer.token("key-RS256", algorithm=algorithm)
            assert await answer(channel, **bearer(token)) == "acme/ann", algorithm
            alone = jwt.encode(claims_now(), issuer.secrets["key-RS256"][1], algorithm)
            assert await answer(channel, **bearer(alone)) == "acme/ann", algorithm
        public = issuer.secrets["key-RS256"][1].public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        assert await answer(channel, **bearer(hmac_token(claims_now(), pem))) == "UNAUTHENTICATED"
        path.write_text(json.dumps({"keys": [*keys, {**keys[0], "kid": "other"}]}))
        assert await answer(channel, **bearer(alone)) == "UNAUTHENTICATED", "which of both?"
        assert await answer(channel, **bearer(token)) == "acme/ann"


async def test_a_key_without_id_is_for_all_ids_while_it_is_alone(issuer: Issuer, tmp_path: Path) -> None:
    """As one that was made by hand from a provider's public key; its tokens have ids."""
    path, other = tmp_path / "jwks.json", Issuer("ES256")
    nameless, strange = (
        {name: value for name, value in each.public[-1].items() if name != "kid"}
        for each in (Issuer("ES256"), other)
    )
    alone = next(key for key in issuer.public if key["alg"] == "ES256")
    mine = {name: value for name, value in alone.items() if name != "kid"}
    token = issuer.token("key-ES256")
    sets = [([mine], "acme/ann"), ([mine, {**strange, "kid": "other"}], "acme/ann")]
    sets += [([alone, nameless], "acme/ann"), ([{**strange, "kid": "key-ES256"}, mine], "UNAUTHENTICATED")]
    sets += [([mine, nameless], "UNAUTHENTICATED"), ([nameless], "UNAUTHENTICATED")]
    async with serving(Echo(), auth=by_tokens(write_keys(path, sets[0][0]))) as (_, channel):
        for keys, expected in sets:
            write_keys(path, keys)
            assert await answer(channel, **bearer(token)) == expected, keys


def write_keys(path: Path, keys: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"keys": keys}))
    return path


WAYS_TO_A_TENANT: list[tuple[str, dict[str, Any], str]] = [
    ("org", {"org": "umbrella"}, "umbrella"),
    ("realm_access.tenant", {"realm_access": {"tenant": "umbrella"}}, "umbrella"),
    ("realm_access.tenant", {"realm_access.tenant": "umbrella", "realm_access": {"tenant": "x"}}, "umbrella"),
    ("a.b.c", {"a": {"b": {"c": "umbrella"}}}, "umbrella"),
    ("https://example.com/tenant", {"https://example.com/tenant": "umbrella"}, "umbrella"),
    ("https://example.com/claims.tenant", {"https://example.com/claims": {"tenant": "umbrella"}}, "umbrella"),
    ("custom:tenant", {"custom:tenant": "umbrella"}, "umbrella"),
    ("a.b", {"a": ["b"], "tenant": "x"}, ""),
    ("a.b", {"a": {"c": "x"}}, ""),
    ("a.b", {"a": {"b": {"c": "x"}}}, ""),
    ("org", {"org": ["umbrella"]}, "umbrella"),
    ("org", {"org": 42}, "42"),
    ("org", {"org": [42]}, "42"),
    ("org", {"org": 10**20}, "1" + "0" * 20),
    ("org", {"org": 10**4000}, ""),
    ("org", {"org": False}, ""),
    ("org", {"org": ["a", "b"]}, ""),
]


async def test_a_tenant_stands_where_the_setting_says(issuer: Issuer, key_file: Path) -> None:
    for claim, claims, tenant in WAYS_TO_A_TENANT:
        async with serving(Echo(), auth={**by_tokens(key_file), "tenant_claim": claim}) as (_, channel):
            token = issuer.token("key-ES256", **claims)
            expected = f"{tenant}/ann" if tenant else "UNAUTHENTICATED"
            assert await answer(channel, **bearer(token)) == expected, (claim, claims)


async def test_whom_a_token_is_for_stands_where_the_setting_says(issuer: Issuer, key_file: Path) -> None:
    """As in access tokens of Amazon Cognito and of others without `aud`."""
    values = {"audience": ["app", "web"], "audience_claims": ["client_id", "cnf.azp", "aud"]}
    async with serving(Echo(), auth=by_tokens(key_file) | values) as (_, channel):
        good: list[dict[str, Any]] = [
            {"aud": None, "client_id": "app"},
            {"aud": None, "client_id": "web"},
            {"aud": "another", "client_id": "app"},
            {"aud": None, "cnf": {"azp": "app"}},
            {"aud": ["another", "web"]},
        ]
        bad: list[dict[str, Any]] = [
            {"aud": None},
            {"aud": AUDIENCE},
            {"aud": None, "client_id": "another"},
            {"aud": "app", "client_id": "another"},
            {"aud": "app", "client_id": ""},
            {"aud": None, "azp": "app"},
            {"aud": None, "client_id": {"app": 1}},
        ]
        for claims in (*good, *bad):
            expected = "acme/ann" if claims in good else "UNAUTHENTICATED"
            assert await answer(channel, **bearer(issuer.token("key-ES256", **claims))) == expected, claims
    async with serving(Echo(), auth=by_tokens(key_file)) as (_, channel):
        cognito = issuer.token("key-ES256", aud=None, client_id=AUDIENCE)
        assert await answer(channel, **bearer(cognito)) == "UNAUTHENTICATED", "only where the setting says so"


@pytest.mark.parametrize("num_groups", [0, 4_000, 8_000, 11_000, 17_000])
async def test_long_tokens_let_in_each_time(issuer: Issuer, key_file: Path, num_groups: int) -> None:
    token = issuer.token("key-ES256", groups="g" * num_groups)
    async with serving(Echo(), auth=by_tokens(key_file)) as (_, channel):
        for _ in range(8):
            assert await answer(channel, **bearer(token)) == "acme/ann", len(token)
        stream = chat(channel, **bearer(token))
        assert await exchange(stream, "a") == "a"
        stream.cancel()


async def test_longer_tokens_are_refused_by_their_length(issuer: Issuer, key_file: Path) -> None:
    async with serving(Echo(), auth=by_tokens(key_file)) as (_, channel):
        token = issuer.token("key-ES256", groups="g" * 20_000)
        with pytest.raises(grpc.aio.AioRpcError, match=f"this token has {len(token)} characters; 24576 are"):
            await say(channel, "who", **bearer(token))
        with pytest.raises(grpc.aio.AioRpcError, match="metadata size exceeds hard limit"):
            await say(channel, "who", **bearer("x" * 40_000))


async def test_a_changed_key_file_counts_at_once(issuer: Issuer, key_file: Path) -> None:
    other = Issuer("ES256")
    async with serving(Echo(), auth=by_tokens(key_file)) as (_, channel):
        assert await answer(channel, **bearer(issuer.token("key-ES256"))) == "acme/ann"
        key_file.write_text(other.key_set())  # noqa: ASYNC240
        assert await answer(channel, **bearer(issuer.token("key-ES256"))) == "UNAUTHENTICATED"
        alone = jwt.encode(claims_now(), other.secrets["key-ES256"][1], "ES256")
        assert await answer(channel, **bearer(alone)) == "acme/ann", "the only key needs no name"
        key_file.write_text("{")  # noqa: ASYNC240
        assert await answer(channel, **bearer(other.token("key-ES256"))) == "acme/ann"


async def test_no_token_and_no_key_is_logged(issuer: Issuer, key_file: Path, tmp_path: Path) -> None:
    good, bad = issuer.token("key-ES256"), issuer.token("key-ES256", aud="x")
    auth = {**by_tokens(key_file), **by_keys(tmp_path, bob="secret-key"), "modes": ["jwt", "api_keys"]}
    with capture_logs() as lines:
        async with serving(Echo(), auth=auth) as (_, channel):
            for token in (good, bad, "secret-key", "wrong-key", "a.b.c"):
                await answer(channel, **bearer(token))
    assert any(line["event"] == "call ended" for line in lines)
    for secret in (good, bad, good.split(".")[2], bad.split(".")[2], "secret-key", "wrong-key"):
        assert secret not in str(lines)


async def test_keys_come_from_a_url_once(issuer: Issuer) -> None:
    with key_server() as server:
        server.serve(issuer)
        async with serving(Echo(), auth=by_tokens(server.url)) as (_, channel):
            assert server.num_requests == 0
            calls = [answer(channel, **bearer(issuer.token(kid))) for kid in issuer.secrets for _ in range(5)]
            assert set(await asyncio.gather(*calls)) == {"acme/ann"}
            assert server.num_requests == 1


async def test_without_any_keys_a_caller_is_told_to_wait(issuer: Issuer) -> None:
    with key_server() as server:
        server.answer = (500, {}, b"")
        async with serving(Echo(), auth=by_tokens(server.url)) as (_, channel):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await say(channel, "who", **bearer(issuer.token("key-ES256")))
            seen = parts(caught.value)
            assert (caught.value.code(), seen["ErrorInfo"].reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "NOT_READY",
            )
            assert "RetryInfo" in seen
            assert await answer(channel, **bearer("a.b.c")) == "UNAUTHENTICATED", (
                "no key is needed to see that"
            )
            assert server.num_requests == 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_an_unknown_key_is_looked_for_at_most_every_half_minute() -> None:
    issuer, clock = Issuer("ES256"), Clock()
    with key_server() as server:
        server.serve(issuer)
        keys = KeyUrl(server.url, 3600.0, clock)
        await keys.find("key-ES256", "ES256")
        issuer.add("new")
        server.serve(issuer)
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                await keys.find("new", "ES256")
        assert server.num_requests == 1
        clock.now += FETCH_INTERVAL_S
        found = await asyncio.gather(*(keys.find("new", "ES256") for _ in range(5)))
        assert {key.key_id for key in found} == {"new"}
        assert server.num_requests == 2


@pytest.mark.parametrize(
    "broken",
    [
        (503, {}, b"later"),
        (200, {}, b"<html>"),
        (200, {}, b'{"keys": []}'),
        (200, {}, b"[" * 100_000),
        (200, {}, b" " * (jwks.MAX_BYTES + 1)),
        (200, {"Content-Length": "100"}, b"{}"),
        (302, {"Location": "/keys"}, b""),
    ],
    ids=["503", "html", "no keys", "deep", "large", "cut off", "redirect"],
)
async def test_old_keys_are_fetched_again_and_kept_when_that_fails(broken: Any) -> None:
    issuer, clock = Issuer("ES256"), Clock()
    with key_server() as server:
        server.serve(issuer)
        keys = KeyUrl(server.url, 600.0, clock)
        await keys.find("key-ES256", "ES256")
        clock.now += 601
        server.answer = broken
        assert (await keys.find("key-ES256", "ES256")).key_id == "key-ES256"
        assert server.num_requests == 2
        await keys.find("key-ES256", "ES256")
        assert server.num_requests == 2, "the next try waits too"
        clock.now += FETCH_INTERVAL_S
        server.serve(Issuer("RS256"))
        with pytest.raises(Unauthenticated):
            await keys.find("key-ES256", "ES256")
        assert server.num_requests == 3


async def test_who_has_a_known_key_does_not_wait_for_newer_ones() -> None:
    issuer, clock = Issuer("ES256"), Clock()
    with key_server() as server:
        server.serve(issuer)
        keys = KeyUrl(server.url, 600.0, clock)
        await keys.find("key-ES256", "ES256")
        clock.now += 601
        server.is_awake.clear()
        first = asyncio.create_task(keys.find("key-ES256", "ES256"))
        await asyncio.sleep(0)
        await asyncio.wait_for(keys.find("key-ES256", "ES256"), WAIT_S)
        assert not first.done()
        server.is_awake.set()
        assert (await asyncio.wait_for(first, WAIT_S)).key_id == "key-ES256"


async def test_a_silent_key_server_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "STEP_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        keys = KeyUrl(f"http://127.0.0.1:{silent.getsockname()[1]}/", 600.0)
        with pytest.raises(NotReady):
            await asyncio.wait_for(keys.find("x", "ES256"), WAIT_S)


async def test_keys_count_when_the_caller_that_asked_for_them_has_left() -> None:
    issuer = Issuer("ES256")
    with key_server() as server:
        server.serve(issuer)
        keys = KeyUrl(server.url, 600.0, Clock())
        asking = asyncio.create_task(keys.find("key-ES256", "ES256"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking}, timeout=WAIT_S)
        assert asking.cancelled()
        async with asyncio.timeout(WAIT_S):
            while not await has(keys, "key-ES256"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert server.num_requests == 1


async def has(keys: KeyUrl, kid: str) -> bool:
    try:
        return (await keys.find(kid, "ES256")).key_id == kid
    except NotReady:
        return False


def client_certificate(authority: Authority, common_name: str, *names: x509.GeneralName) -> ClientTlsSettings:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = begin(name_of(common_name), authority._name, key.public_key())
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate, secret = authority.folder / "client.pem", authority.folder / "client.key"
    write(certificate, builder.sign(authority._key, hashes.SHA256()))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return ClientTlsSettings(certificate, secret, authority.path)


async def who(port: int, tls: ClientTlsSettings, **call: Any) -> str:
    async with open_channel(f"localhost:{port}", GrpcSettings(), tls) as channel:
        return await answer(channel, **call)


def server_tls(authority: Authority) -> dict[str, Path]:
    certificate, key = authority.issue("server")
    return {"certificate": certificate, "key": key, "ca": authority.path}


async def test_a_certificate_names_its_bearer(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    uri, dns = x509.UniformResourceIdentifier("spiffe://acme/gateway"), x509.DNSName("gateway.acme")
    async with running(
        settings(tls=server_tls(authority), auth={"modes": ["mtls"]}), "echo", Echo().build()
    ) as server:
        seen = [
            await who(server.port, client_certificate(authority, "gw", *names))
            for names in ((dns, uri), (dns,), ())
        ]
        assert seen == ["default/spiffe://acme/gateway", "default/gateway.acme", "default/gw"]
        forged = {"metadata": ((CERTIFICATE, b"admin"),)}
        assert await who(server.port, client_certificate(authority, "gw"), **forged) == "default/gw"
        nameless = client_certificate(authority, "x\ny")
        assert await who(server.port, nameless) == "UNAUTHENTICATED"
        assert await who(server.port, nameless, **bearer("any")) == "UNAUTHENTICATED"


async def test_any_mode_lets_in_by_the_form_of_the_credential(
    issuer: Issuer, key_file: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    auth = {**by_tokens(key_file), **by_keys(tmp_path, bob="k1"), "modes": ["api_keys", "jwt", "mtls"]}
    async with running(settings(tls=server_tls(authority), auth=auth), "echo", Echo().build()) as server:
        tls = client_certificate(authority, "gw")
        assert await who(server.port, tls) == "default/gw"
        assert await who(server.port, tls, **bearer("k1")) == "acme/bob"
        assert await who(server.port, tls, **bearer(issuer.token("key-ES256"))) == "acme/ann"
        for wrong in ("k2", "a.b.c", issuer.token("key-ES256", aud="x")):
            assert await who(server.port, tls, **bearer(wrong)) == "UNAUTHENTICATED"


async def test_an_open_method_takes_no_credential_but_no_wrong_one(
    issuer: Issuer, key_file: Path, tmp_path: Path
) -> None:
    auth = {**by_tokens(key_file), **by_keys(tmp_path, bob="k1"), "modes": ["api_keys", "jwt"]}
    async with serving(Echo(), service=OPEN, auth=auth) as (_, channel):
        assert await answer(channel) == "/nobody"
        assert await answer(channel, **bearer("k1")) == "acme/bob"
        expired = issuer.token("key-ES256", exp=time.time() - 60)
        assert await answer(channel, **bearer(expired)) == "EXPIRED_CREDENTIAL"
        wrong = ["Bearer k2", "Bearer a.b.c", "Bearer", "", "k1", "Basic azE="]
        for header in wrong:
            assert await answer(channel, metadata=(("authorization", header),)) == "UNAUTHENTICATED", header
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exchange(chat(channel), "a")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, f"{CHAT} is not open"


async def test_where_everybody_may_call_an_open_method_is_like_any_other() -> None:
    async with serving(Echo(), service=OPEN) as (_, channel):
        assert await answer(channel) == "default/anonymous"
        assert await answer(channel, **bearer("whatever")) == "default/anonymous"


HEADERS = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200),
    st.lists(st.binary(max_size=60), min_size=3, max_size=3).map(
        lambda some: ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in some)
    ),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64"]), inner, max_size=4)
        ),
        max_leaves=8,
    ).map(lambda header: f"{encoded(header)}.e30.AA"),
)


async def test_no_header_of_a_stranger_gets_in_or_breaks_anything(key_file: Path, tmp_path: Path) -> None:
    auth = {**by_tokens(key_file), **by_keys(tmp_path, bob="k" * 40), "modes": ["api_keys", "jwt"]}
    async with serving(Echo(), auth=auth) as (_, channel):
        loop = asyncio.get_running_loop()

        @given(HEADERS)
        @hypothesis_settings(max_examples=150, deadline=None)
        def check(header: str) -> None:
            asked = answer(channel, **bearer(header))
            assert asyncio.run_coroutine_threadsafe(asked, loop).result(WAIT_S) == "UNAUTHENTICATED"

        await asyncio.to_thread(check)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"modes": ["magic"]}, "'api_keys', 'jwt' or 'mtls'"),
        ({"modes": ["api_keys"]}, "keys_file come together"),
        ({"keys_file": "x"}, "keys_file come together"),
        ({"modes": ["jwt"], "jwks": "x"}, "issuer and audience come together"),
        ({"jwks": "x", "issuer": "i", "audience": "a"}, "issuer and audience come together"),
        (by_tokens("/keys") | {"audience": []}, "issuer and audience come together"),
        (by_tokens("/keys") | {"audience": [""]}, "must not be empty"),
        (by_tokens("/keys") | {"audience_claims": []}, "at least 1 item"),
        (by_tokens("/keys") | {"issuer": " "}, "issuer: Value error, must not be empty, and have no spaces"),
        (by_tokens("/keys") | {"issuer": f"{ISSUER}\n"}, "issuer: Value error, must not be empty"),
        (by_tokens("/keys") | {"tenant_claim": ""}, "tenant_claim: Value error, must not be empty"),
        (by_tokens("/keys") | {"tenant_claim": " tenant"}, "no spaces around it"),
        (by_tokens("https://issuer.test/.well-known/openid-configuration"), "has as jwks_uri"),
        (by_tokens("https://issuer.test/.well-known/oauth-authorization-server"), "has as jwks_uri"),
        (by_tokens("https://issuer.test/a b"), "jwks must be"),
        (by_tokens("https://issuer.test:99999/keys"), "jwks must be"),
        (by_tokens("http://issuer.test/keys"), "jwks must be"),
        (by_tokens("http://127.0.0.1.evil.test/keys"), "jwks must be"),
        (by_tokens("http://127.0.0.1@evil.test/keys"), "jwks must be"),
        (by_tokens("https://user:secret@issuer.test/keys"), "jwks must be"),
        (by_tokens("file:///etc/passwd"), "jwks must be"),
        (by_tokens("https://"), "jwks must be"),
    ],
)
def test_wrong_settings_are_fatal(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        make(AuthSettings, values)
    assert says in str(caught.value)


def test_settings_from_the_environment(tmp_path: Path) -> None:
    found = load_settings(
        ServerSettings,
        {
            "CASCADE_AUTH_MODES": "api_keys, jwt",
            "CASCADE_AUTH_KEYS_FILE": str(tmp_path / "keys.toml"),
            "CASCADE_AUTH_JWKS": "https://issuer.test/keys",
            "CASCADE_AUTH_ISSUER": ISSUER,
            "CASCADE_AUTH_AUDIENCE": f"{AUDIENCE}, web",
            "CASCADE_AUTH_AUDIENCE_CLAIMS": "client_id,aud",
        },
    )
    assert (found.auth.audience, found.auth.audience_claims) == ((AUDIENCE, "web"), ("client_id", "aud"))
    assert found.auth.modes == ("api_keys", "jwt")
    assert ServerSettings().auth.modes == ()


@pytest.mark.parametrize(
    ("auth", "says"),
    [
        ({"modes": ["mtls"]}, r"auth\.modes: mtls needs tls\.ca"),
        (by_tokens("/no/jwks.json"), r"auth\.jwks: /no/jwks\.json: No such file"),
        ({"modes": ["api_keys"], "keys_file": "/no/keys"}, r"auth\.keys_file: /no/keys"),
    ],
)
async def test_what_cannot_work_ends_the_start(auth: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidConfig, match=says):
        async with serving(Echo(), auth=auth):
            pass


def test_a_tenant_of_a_key_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[[keys]]\nname = "a"\ntenant = "{"x" * 129}"\nsha256 = "{"0" * 64}"\n')
    with pytest.raises(InvalidConfig, match="128"):
        load_keys(path)
