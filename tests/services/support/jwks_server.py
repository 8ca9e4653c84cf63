"""An identity provider on loopback: signs tokens and serves its public keys over HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://issuer.test", "cascade"
MAKERS: dict[str, Any] = {
    **dict.fromkeys(
        ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
        (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    ),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "ES384": (lambda: ec.generate_private_key(ec.SECP384R1()), ECAlgorithm),
    "ES512": (lambda: ec.generate_private_key(ec.SECP521R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}


class Issuer:
    """Keys by id; `add` makes one."""

    def __init__(self, *algorithms: str) -> None:
        self.secrets: dict[str, tuple[str, Any]] = {}
        self.public: list[dict[str, Any]] = []
        for algorithm in algorithms:
            self.add(f"key-{algorithm}", algorithm)

    def add(self, kid: str, algorithm: str = "ES256") -> None:
        make, kind = MAKERS[algorithm]
        key = make()
        self.secrets[kid] = (algorithm, key)
        jwk = kind.to_jwk(key.public_key(), as_dict=True)
        self.public.append({**jwk, "kid": kid, "use": "sig", "alg": algorithm})

    def key_set(self) -> str:
        return json.dumps({"keys": self.public})

    def token(
        self, kid: str, headers: dict[str, Any] | None = None, algorithm: str = "", **changes: Any
    ) -> str:
        """Good for an hour, but for the changed claims; a claim of None is left out."""
        own, key = self.secrets[kid]
        claims = {**claims_now(), **changes}
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key, algorithm or own, {"kid": kid, **(headers or {})})


def claims_now() -> dict[str, Any]:
    now = time.time()
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "tenant": "acme", "iat": now, "exp": now + 3600}


class KeyServer:
    """What is asked of it is counted; `answer` is (status, headers, body), given while `is_awake` is set."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.num_requests = 0
        self.is_awake = threading.Event()
        self.is_awake.set()
        self.answer: tuple[int, dict[str, str], bytes] = (200, {}, b"")

    def serve(self, issuer: Issuer) -> None:
        self.answer = (200, {}, issuer.key_set().encode())


@contextmanager
def key_server() -> Iterator[KeyServer]:
    """Listens on any free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.num_requests += 1
            keys.is_awake.wait(10)
            status, headers, body = keys.answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    keys = KeyServer(f"http://127.0.0.1:{server.server_port}/keys")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield keys
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
