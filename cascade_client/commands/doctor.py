"""`cascade doctor`: is everything here that is needed?"""

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

from cascade_client.checks.finding import Finding
from cascade_client.checks.gateway import check_gateway
from cascade_client.checks.gpus import check_gpus
from cascade_client.checks.machine import check_machine, check_packages, check_python
from cascade_client.checks.redis import check_redis
from cascade_client.checks.weights import check_weights
from cascade_client.commands.arguments import parse_model
from cascade_client.console import Commands, Options, add_command, add_gateway, add_json, print_json

Check = Callable[[Options], Awaitable[Sequence[Finding]]]
CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_machine,
    check_gpus,
    check_weights,
    check_redis,
    check_gateway,
)


def add_commands(commands: Commands) -> None:
    parser = add_command(commands, "doctor", doctor, "check that everything needed is here")
    parser.add_argument(
        "--model", type=parse_model, default="demo", help="the model card that is to run here (default: demo)"
    )
    redis_url = os.environ.get("CASCADE_GATEWAY_REDIS_URL")
    parser.add_argument("--redis", default=redis_url, metavar="URL", help="a Redis that should answer")
    add_json(parser)
    add_gateway(parser)


async def doctor(options: Options) -> int:
    """Exit status 1 if something fails."""
    found: list[Finding] = []
    for check in CHECKS:
        for finding in await check(options):
            found.append(finding)
            if not options.json:
                show(finding)
    if options.json:
        print_json([asdict(finding) for finding in found])
    return 1 if any(finding.status == "fail" for finding in found) else 0


def show(finding: Finding) -> None:
    advice = f"\n      -> {finding.advice}" if finding.advice else ""
    print(f"{finding.status:4}  {finding.name}: {finding.text}{advice}", flush=True)
