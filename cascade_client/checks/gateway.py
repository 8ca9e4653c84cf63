"""Who answers where the gateway should."""

import argparse
import asyncio
from collections.abc import Sequence

import grpc

from cascade.v1 import session_pb2
from cascade_client.channel import is_local, open_channel, parse_addresses
from cascade_client.checks.finding import DEADLINE_S, Finding
from cascade_client.console import Options, make_client, read_tls
from cascade_client.errors import CascadeClientError
from cascade_client.health import is_serving
from cascade_client.local.plan import has_services
from cascade_client.local.ports import is_free


async def check_gateway(options: Options) -> Sequence[Finding]:
    try:
        addresses = parse_addresses(options.gateway)
    except ValueError as error:
        return [Finding("gateway", "fail", str(error), "correct --gateway")]
    return [await gateway(address, options) for address in addresses]


async def gateway(address: str, options: Options) -> Finding:
    """Who answers there, if anybody."""
    host, _, port = address.rpartition(":")
    name = f"gateway {address}"
    try:
        async with open_channel(address, read_tls(options)) as channel:
            if await is_serving(channel, DEADLINE_S):
                return Finding(name, "ok", f"serves {await offers(address, options)}")
        return Finding(
            name, "fail", "answers, but does not serve", "look at its log; it may still be starting"
        )
    except grpc.aio.AioRpcError as error:
        if await accepts(host.strip("[]"), int(port)):
            text = "something listens there that is no gateway, or asks for TLS"
            code = error.code().name.lower()
            return Finding(name, "fail", f"{text} ({code})", "choose another --port, or give --ca")
    if is_local(address) and not is_free(int(port)):
        return Finding(name, "fail", "the port is taken", "choose another with --port")
    return Finding(name, "warn", "nobody listens; the port is free", how_to_find_one(address))


async def offers(address: str, options: Options) -> str:
    """What sessions there can be made with, as far as it tells."""
    asked = argparse.Namespace(**vars(options) | {"gateway": address})
    try:
        async with make_client(asked, retry_for_s=0) as client:
            models = await client.models()
    except CascadeClientError as error:
        return f"(its models: {error})"
    return "; ".join(map(described, models)) or "no model: no stage has reported yet"


def described(model: session_pb2.Model) -> str:
    """With its LoRAs."""
    loras = ", ".join(lora.name for lora in model.loras)
    return f"{model.name} with LoRA {loras}" if loras else model.name


def how_to_find_one(target: str) -> str:
    """What to do where nobody listens: start a gateway on this machine; one elsewhere is only named."""
    if is_local(target) and has_services():
        return "start it: run `cascade up` in another terminal"
    return "name one that runs: --gateway HOST:PORT"


async def accepts(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(DEADLINE_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
