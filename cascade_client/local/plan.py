"""Which processes `cascade up` runs, and with what settings."""

import importlib.util
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cascade_client.console import GATEWAY_VARIABLE, CommandFailed
from cascade_client.local.ports import HOST, HTTP_VARIABLE, NAME, HttpPort, free_ports, http_ports, is_free

HOSTS_VARIABLE = "CASCADE_HTTP_HOSTS"
DRAIN = {
    "CASCADE_DRAIN_NOTICE_S": "0",
    "CASCADE_DRAIN_DEADLINE_S": "2",
    "CASCADE_DRAIN_GRACE_S": "1",
    "CASCADE_DRAIN_HURRY_S": "0.5",
}
INSTALL = "type `make up` in a checkout of Cascade, or use its images and chart"
DRAIN_S = 6.0
"""The sum of these, with a margin."""
NEEDS = {
    "stage": ("torch", "transformers"),
    "decoder": ("torch", "av", "diffusers"),
    "gateway": ("structlog", "uvicorn"),
}


@dataclass(frozen=True)
class UpOptions:
    """What the person asked for."""

    model: str = "demo"
    num_ranks: int = 1
    num_stages: int = 1
    num_decoders: int = 1
    num_gateways: int = 1
    port: int = 50051
    """Of the first gateway; the others follow. 0: any free ones."""
    http: HttpPort = field(default_factory=HttpPort)
    device: str = "auto"
    redis: str | None = None
    """A URL, `auto` for a server of our own, or None."""
    log_dir: Path = Path("out/logs")


@dataclass(frozen=True)
class Process:
    """One child process."""

    name: str
    """Such as `stage-0`."""
    role: str
    port: int
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of ours."""

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def page(self) -> str | None:
        """Where a browser finds it. None: nowhere."""
        port = self.environment.get(HTTP_VARIABLE)
        return f"http://{NAME}:{port}" if port else None


def make_plan(options: UpOptions) -> list[Process]:
    """Redis first, gateways last. Raises CommandFailed where it cannot work."""
    check(options)
    ports = free_ports(options.num_stages + options.num_decoders + 2 * options.num_gateways + 1)
    processes = []
    redis_url = options.redis
    if options.redis == "auto":
        port = ports.pop()
        redis_url = f"redis://{HOST}:{port}/0"
        processes.append(Process("redis", "redis", port, redis_command(port)))
    common = {**DRAIN, "CASCADE_GRPC_HOST": HOST, "CASCADE_TELEMETRY_LOG_FORMAT": "json"}
    threads = str(num_threads(options))
    stage = {
        "CASCADE_STAGE_MODEL": options.model,
        "CASCADE_STAGE_NUM_RANKS": str(options.num_ranks),
        "CASCADE_STAGE_DEVICE": options.device,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }
    decoder = {
        "CASCADE_DECODER_MODEL": options.model,
        "CASCADE_DECODER_DEVICE": options.device,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }
    processes += [service("stage", index, ports.pop(), common | stage) for index in range(options.num_stages)]
    processes += [
        service("decoder", index, ports.pop(), common | decoder) for index in range(options.num_decoders)
    ]
    gateway = {
        "CASCADE_GRPC_HOST": NAME,
        "CASCADE_GATEWAY_STAGES": ",".join(each.address for each in processes if each.role == "stage"),
        "CASCADE_GATEWAY_DECODERS": ",".join(each.address for each in processes if each.role == "decoder"),
        "CASCADE_GATEWAY_DEFAULT_MODEL": options.model,
        "OMP_NUM_THREADS": "1",
    }
    if redis_url:
        gateway["CASCADE_GATEWAY_REDIS_URL"] = redis_url
        gateway["CASCADE_GATEWAY_TOKEN_KEY_FILE"] = str(token_key(options.log_dir))
    grpc_ports = range(options.port, options.port + options.num_gateways) if options.port else ()
    for index, http in enumerate(http_ports(options.http, options.num_gateways, ports, grpc_ports)):
        port = options.port + index if options.port else ports.pop()
        own = {} if http is None else {HTTP_VARIABLE: str(http), **local_hosts()}
        processes.append(service("gateway", index, port, common | gateway | own))
    return processes


def local_hosts() -> Mapping[str, str]:
    """Every address of this machine's `localhost`. No page elsewhere, whose name is made to lead here, steers
    what asks for no key; unless somebody has said who may reach it."""
    is_said = {"CASCADE_HTTP_HOST", HOSTS_VARIABLE} & os.environ.keys()
    return {} if is_said else {"CASCADE_HTTP_HOST": NAME, HOSTS_VARIABLE: f"{NAME},{HOST},[::1]"}


def service(role: str, index: int, port: int, environment: Mapping[str, str]) -> Process:
    command = (sys.executable, "-m", f"services.{role}")
    return Process(f"{role}-{index}", role, port, command, {**environment, "CASCADE_GRPC_PORT": str(port)})


def redis_command(port: int) -> Sequence[str]:
    """Keeps nothing on disk: it lives as long as the sessions of this `up`."""
    return ("redis-server", "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no")


def base_environment() -> dict[str, str]:
    """Ours, without what is meant for the command and would be a wrong setting for a service."""
    ours = (GATEWAY_VARIABLE, HTTP_VARIABLE)
    return {name: value for name, value in os.environ.items() if name not in ours} | {"PYTHONUNBUFFERED": "1"}


def num_threads(options: UpOptions) -> int:
    """Threads of each process that computes, so that all of them together have the machine's cores."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, num_cores // (options.num_stages * options.num_ranks + options.num_decoders))


def has_services() -> bool:
    """Any of them; the client is installed without."""
    return any(is_there(f"services.{role}") for role in NEEDS)


def check_installed() -> None:
    """Raises CommandFailed where a service lacks what it imports."""
    if not has_services():
        raise CommandFailed(f"only the client is installed here: {INSTALL}")
    for role, modules in NEEDS.items():
        missing = [name for name in (f"services.{role}", *modules) if not is_there(name)]
        if missing:
            raise CommandFailed(f"the {role} needs {missing[0]}: {INSTALL}")


def check(options: UpOptions) -> None:
    if options.num_gateways > 1 and not options.redis:
        raise CommandFailed(
            "several gateways share their sessions through Redis: add --redis auto, or its URL"
        )
    if options.redis == "auto" and not shutil.which("redis-server"):
        raise CommandFailed("--redis auto: redis-server is not installed (Debian: apt install redis-server)")
    check_port(options)


def check_port(options: UpOptions) -> None:
    for port in range(options.port, options.port + options.num_gateways) if options.port else ():
        if not is_free(port):
            raise CommandFailed(f"port {port} is taken: choose another with --port, or 0 for any free one")


def is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def token_key(folder: Path) -> Path:
    """What all gateways sign resume tokens with; made once, readable by its owner alone."""
    path = (folder / "token.key").absolute()
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
    return path
