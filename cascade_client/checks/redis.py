"""Whether Redis answers, in its own protocol: no package for it is needed."""

import asyncio
import shutil
import socket
import ssl
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from cascade_client.checks.finding import DEADLINE_S, Finding
from cascade_client.console import Options


async def check_redis(options: Options) -> Sequence[Finding]:
    if not options.redis:
        installed = (
            "redis-server is installed" if shutil.which("redis-server") else "redis-server is not installed"
        )
        return [Finding("Redis", "ok", f"none named; several gateways need one ({installed})")]
    try:
        answer = await asyncio.to_thread(ping, options.redis)
    except (OSError, ValueError) as error:
        return [Finding("Redis", "fail", f"does not answer: {reason(error)}", "start it, or correct --redis")]
    if answer != "+PONG":
        return [Finding("Redis", "fail", f"refuses: {answer.lstrip('-')}", "correct the password in the URL")]
    return [Finding("Redis", "ok", "answers")]


def reason(error: Exception) -> str:
    """Without the number that the system has for it."""
    return getattr(error, "strerror", None) or str(error)


def ping(url: str) -> str:
    """The answer to PING, in Redis' own protocol. Raises OSError, ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("this looks at redis:// and rediss:// alone, such as redis://localhost:6379/0")
    with socket.create_connection((parts.hostname, parts.port or 6379), DEADLINE_S) as plain:
        connection = plain
        if parts.scheme == "rediss":
            context = tls_context(dict(parse_qsl(parts.query)))
            connection = context.wrap_socket(plain, server_hostname=parts.hostname)
        with connection.makefile("rb") as answers:
            if parts.password:
                user = [unquote(parts.username)] if parts.username else []
                connection.sendall(encode("AUTH", *user, unquote(parts.password)))
                answer = answers.readline().decode().strip()
                if answer != "+OK":
                    return answer
            connection.sendall(encode("PING"))
            return answers.readline().decode(errors="replace").strip()


def tls_context(query: Mapping[str, str]) -> ssl.SSLContext:
    """With the files that the URL names, as gateways read it. Raises OSError."""
    context = ssl.create_default_context(cafile=query.get("ssl_ca_certs"))
    if certificate := query.get("ssl_certfile"):
        context.load_cert_chain(certificate, query.get("ssl_keyfile"))
    return context


def encode(*words: str) -> bytes:
    """A command in Redis' protocol."""
    parts = [f"*{len(words)}\r\n".encode()]
    parts += [b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words]
    return b"".join(parts)
