"""`cascade up`: all services on this machine, as child processes."""

import asyncio
from pathlib import Path
from typing import Any

from cascade_client.checks.redis import ping, reason
from cascade_client.checks.weights import what_hinders
from cascade_client.commands.arguments import parse_count, parse_http_port, parse_port, parse_seconds
from cascade_client.console import CommandFailed, Commands, Options, add_command, add_json, note, print_json
from cascade_client.local.log_folder import log_folder
from cascade_client.local.plan import Process, UpOptions, check_installed, make_plan
from cascade_client.local.ports import wanted_http
from cascade_client.local.service import LocalService
from cascade_client.local.supervisor import Supervisor, Tell

DETAILS = """\
Starts stages, decoders and gateways, restarts what dies, and ends everything at Ctrl-C.

examples:
  cascade up
  cascade up --gateways 2 --redis auto
"""


def add_commands(commands: Commands) -> None:
    parser = add_command(commands, "up", up, "run all services on this machine", DETAILS)
    parser.add_argument("--model", default="demo", help="model card (default: demo)")
    parser.add_argument(
        "--ranks", type=parse_count, default=1, help="rank processes of each stage (default: 1)"
    )
    parser.add_argument("--stages", type=parse_count, default=1, help="how many (default: 1)")
    parser.add_argument("--decoders", type=parse_count, default=1, help="how many (default: 1)")
    parser.add_argument(
        "--gateways", type=parse_count, default=1, help="how many; several need --redis (default: 1)"
    )
    parser.add_argument(
        "--port", type=parse_port, default=50051, help="of the first gateway; 0: any (default: 50051)"
    )
    parser.add_argument(
        "--http-port", type=parse_http_port, metavar="PORT",
        help="of the first gateway's page; 0: any, `off`: none (default: 8080, another where that is taken)",
    )  # fmt: skip
    parser.add_argument("--redis", metavar="URL", help="keep sessions there, or `auto` to start redis-server")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="what computes")
    parser.add_argument(
        "--log-dir", type=Path, help="default: out/logs, or out/logs-2 and so on beside another `cascade up`"
    )
    parser.add_argument(
        "--ready-within", type=parse_seconds, default=900.0, metavar="SECONDS",
        help="give up when not everything serves by then (default: 900)",
    )  # fmt: skip
    add_json(parser)


async def up(options: Options) -> int:
    check_installed()
    with log_folder(options.log_dir) as logs:
        return await run(options, logs)


async def run(options: Options, logs: Path) -> int:
    wanted = UpOptions(
        options.model, options.ranks, options.stages, options.decoders, options.gateways, options.port,
        wanted_http(options.http_port), options.device, options.redis, logs,
    )  # fmt: skip

    def tell(event: str, values: dict[str, Any], text: str) -> None:
        if options.json:
            print_json({"event": event, **values})
        else:
            note(text)

    if wanted.redis and wanted.redis != "auto":
        await require_redis(wanted.redis)
    plan = make_plan(wanted)
    if wanted.http.number and not wanted.http.source and (moved := moved_page(plan, wanted.http.number)):
        note(f"port {wanted.http.number} is taken: the page will be at {moved}")
    supervisor = Supervisor(plan, logs, tell)
    supervisor.heed_signals()
    note(f"starting {len(supervisor.services)} processes; logs in {logs}")
    hinting = asyncio.create_task(hint(options.model, tell))
    try:
        await supervisor.run(options.ready_within, lambda: announce(supervisor.services, options))
    finally:
        hinting.cancel()
        await asyncio.gather(hinting, return_exceptions=True)
    tell("stopped", {}, "all stopped")
    return 0


async def hint(model: str, tell: Tell) -> None:
    """Long before the hub's client has given up."""
    if model != "demo" and (text := await what_hinders(model)):
        tell("warning", {"text": text}, f"warning: {text}")


async def require_redis(url: str) -> None:
    """Raises CommandFailed: without it no session could be made, and nobody would say why."""
    try:
        answer = await asyncio.to_thread(ping, url)
    except (OSError, ValueError) as error:
        raise CommandFailed(f"--redis: it does not answer: {reason(error)}") from None
    if answer != "+PONG":
        raise CommandFailed(f"--redis: it refuses: {answer.lstrip('-')}")


def moved_page(plan: list[Process], wanted: int) -> str | None:
    """The first gateway's, if it is at another port than that."""
    page = next(process.page for process in plan if process.role == "gateway")
    return page if page and not page.endswith(f":{wanted}") else None


def announce(services: list[LocalService], options: Options) -> None:
    addresses = {
        role: [service.process.address for service in services if service.process.role == role]
        for role in ("gateway", "stage", "decoder", "redis")
    }
    pages = [service.process.page for service in services if service.process.page]
    if options.json:
        pids = {service.process.name: service.child.pid for service in services}
        print_json({"event": "ready", **addresses, "http": pages, "pids": pids})
        return
    for service in services:
        print(f"{service.process.name:10} {service.process.address:16} pid {service.child.pid}")
    target = ",".join(addresses["gateway"])
    place = "" if target.endswith(":50051") and "," not in target else f" --gateway {target}"
    page = f"The page: {pages[0]}\n" if pages else ""
    example = f'  cascade generate "a red circle moves left"{place}\n'
    print(f"\nReady. Ctrl-C ends it.\n{page}In another terminal:\n\n{example}", flush=True)
