"""Asks a service of this machine for its health: `python -m services.common.probe [PORT ...]`.

Exit status 0: it serves; 1: it does not, with one line on stderr that says why; 2: wrong arguments. Port,
TLS and the rest come from the settings of the service itself (`CASCADE_*`). For containers without the
kubelet's gRPC probes, and for those with TLS, which the kubelet's gRPC probes do not speak.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT
from cascade_core.errors import CascadeError, InvalidConfig
from services.common.addresses import is_everywhere, join
from services.common.environment import load_settings
from services.common.settings import GrpcSettings, Port, ServerSettings
from services.common.tls import read

CHECK = "/grpc.health.v1.Health/Check"
DEADLINE_S = 3.0


@dataclass(frozen=True, config=STRICT)
class ProbeGrpcSettings(GrpcSettings):
    """As GrpcSettings; services differ in their default port, so there is none here."""

    port: Port = 0


@dataclass(frozen=True, config=STRICT)
class ProbeSettings(ServerSettings):
    """The sections that every service has; the others are not this module's to judge."""

    grpc: ProbeGrpcSettings = field(default_factory=ProbeGrpcSettings)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = parse(arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines would stand before ours
    try:
        complaints = ask(load_settings(ProbeSettings), options.ports, options.timeout, options.service)
    except CascadeError as error:
        complaints = [str(error)]
    if complaints:
        print(f"probe: {'; '.join(complaints)}", file=sys.stderr)
    return 1 if complaints else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="probe", description="Does the service of this machine serve?")
    parser.add_argument(
        "ports",
        type=port,
        nargs="*",
        metavar="PORT",
        help="where it listens unless CASCADE_GRPC_PORT says; of several, one that serves is enough",
    )
    parser.add_argument(
        "--timeout", type=seconds, default=DEADLINE_S, metavar="SECONDS", help="for the answer (default: 3)"
    )
    parser.add_argument(
        "--service",
        default="",
        help="a name of the health service, such as `live` (default: the whole server)",
    )
    return parser.parse_args(arguments)


def port(text: str) -> int:
    if not 1 <= int(text) <= 65535:
        raise ValueError
    return int(text)


def seconds(text: str) -> float:
    if not 0 < float(text) <= 3600:
        raise ValueError
    return float(text)


def ask(settings: ServerSettings, ports: Sequence[int], timeout_s: float, service: str = "") -> list[str]:
    """Why nobody serves; empty: somebody does. Raises InvalidConfig where the settings do not say whom to
    ask."""
    known = [settings.grpc.port] if settings.grpc.port else ports
    if not known:
        raise InvalidConfig("CASCADE_GRPC_PORT is not set (0: any), and no port was given")
    complaints = []
    for number in known:
        complaint = ask_one(settings, number, timeout_s / len(known), service)
        if complaint is None:
            return []
        complaints.append(complaint)
    return complaints


def ask_one(settings: ServerSettings, number: int, timeout_s: float, service: str) -> str | None:
    """Why the server at this port does not serve; None: it does."""
    address = join(loopback_of(settings.grpc.host), number)
    with open_channel(address, settings) as channel:
        check: Any = channel.unary_unary(
            CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            status = check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s).status
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            return f"{address}: {code.name}: {details}"
    if status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}"


def loopback_of(host: str) -> str:
    """Where what listens there is reached from its own machine."""
    if not is_everywhere(host):
        return host
    return "::1" if ":" in host else "127.0.0.1"


def open_channel(address: str, settings: ServerSettings) -> grpc.Channel:
    """With TLS, the server has to hold the certificate of the settings, whoever signed it and for whatever
    name; where it asks for a client's certificate, it is shown the same one. Raises InvalidConfig."""
    tls = settings.tls
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if tls.certificate is None or tls.key is None:
        return grpc.insecure_channel(address, options)
    chain = read(tls.certificate)
    own = {"private_key": read(tls.key), "certificate_chain": chain} if tls.ca else {}
    credentials = grpc.ssl_channel_credentials(root_certificates=chain, **own)
    name = ("grpc.ssl_target_name_override", name_in(chain, tls.certificate))
    return grpc.secure_channel(address, credentials, [*options, name])


def name_in(chain: bytes, path: Path) -> str:
    """A host name that the first certificate is good for. Raises InvalidConfig where it has none."""
    try:
        certificate = x509.load_pem_x509_certificate(chain)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise InvalidConfig(f"tls: {path}: {error}") from None
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    if not (hosts or addresses):
        raise InvalidConfig(f"tls: {path} names no host and no address")
    return (hosts or addresses)[0].replace("*", "probe")


if __name__ == "__main__":
    sys.exit(main())
