"""`cascade drain`: empty a stage or decoder before its machine is taken away."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from cascade.v1 import decoder_pb2, stage_pb2
from cascade.v1.common_pb2 import DrainStatus
from cascade.v1.decoder_pb2_grpc import DecoderServiceStub
from cascade.v1.stage_pb2_grpc import StageServiceStub
from cascade_client.channel import open_channel, parse_addresses
from cascade_client.commands.arguments import parse_seconds
from cascade_client.console import (
    CommandFailed,
    Commands,
    Options,
    add_command,
    add_credentials,
    add_json,
    note,
    print_json,
    read_api_key,
    read_tls,
)
from cascade_client.errors import CascadeClientError, from_rpc
from cascade_client.gateway_stream import unreachable
from cascade_client.session import duration, make_request_id, seconds

DEADLINE_S = 10.0
MARGIN_S = 30.0
"""After the drain's own time, for the last report to come."""
DETAILS = """\
It takes no new sessions, and the gateway moves its sessions elsewhere. There is no way back.

example:
  cascade drain localhost:50061 --timeout 60 --wait && kubectl delete pod cascade-stage-0
"""


def add_commands(commands: Commands) -> None:
    parser = add_command(
        commands, "drain", drain, "move all sessions off a stage or decoder", DETAILS, "ADDRESS"
    )
    parser.add_argument("address", metavar="ADDRESS", help="host:port of the stage or decoder")
    parser.add_argument(
        "--timeout", type=parse_seconds, default=300.0, help="time to move, seconds (default: 300)"
    )
    parser.add_argument("--wait", action="store_true", help="until it is safe to delete")
    parser.add_argument("--reason", default="cascade drain", help="for people who look at it")
    add_json(parser)
    add_credentials(parser)


async def drain(options: Options) -> int:
    try:
        (address,) = parse_addresses(options.address)
    except ValueError as error:
        raise CommandFailed(str(error)) from None
    key = read_api_key(options)
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    async with open_channel(address, read_tls(options)) as channel:
        try:
            peer, is_empty = await begin(channel, options, metadata)
            if options.wait and not is_empty:
                async with asyncio.timeout(options.timeout + MARGIN_S):
                    await wait(peer, options)
        except grpc.aio.AioRpcError as error:
            raise explained(error, address) from None
        except TimeoutError:
            raise CommandFailed(f"{address} is not empty after {options.timeout:g} s") from None
    return 0


class DrainTarget:
    """A stage or a decoder: they differ in the names of their messages alone."""

    def __init__(self, kind: str, stub: Any, request: type, watch: type, metadata: Any) -> None:
        self.kind, self._stub, self._request, self._watch = kind, stub, request, watch
        self._metadata = metadata

    async def drain(self, options: Options) -> DrainStatus:
        request = self._request(
            request_id=make_request_id(), timeout=duration(options.timeout), reason=options.reason
        )
        answer = await self._stub.Drain(request, timeout=DEADLINE_S, metadata=self._metadata)
        status: DrainStatus = answer.drain
        return status

    async def reports(self) -> AsyncGenerator[DrainStatus, None]:
        call = self._stub.WatchStatus(self._watch(), metadata=self._metadata)
        try:
            async for report in call:
                yield report.status.drain
        finally:
            call.cancel()


async def begin(channel: grpc.aio.Channel, options: Options, metadata: Any) -> tuple[DrainTarget, bool]:
    """Whichever of the two it is, and whether it is empty already; raises AioRpcError."""
    stage = DrainTarget(
        "stage", StageServiceStub(channel), stage_pb2.StageServiceDrainRequest,
        stage_pb2.StageServiceWatchStatusRequest, metadata,
    )  # fmt: skip
    decoder = DrainTarget(
        "decoder", DecoderServiceStub(channel), decoder_pb2.DecoderServiceDrainRequest,
        decoder_pb2.DecoderServiceWatchStatusRequest, metadata,
    )  # fmt: skip
    for peer in (stage, decoder):
        with suppress(NotThis):
            status = await attempt(peer, options)
            tell(peer, status, options)
            return peer, status.safe_to_delete
    raise CommandFailed(f"{options.address} is neither a stage nor a decoder")


class NotThis(Exception):
    """The server has no such service."""


async def attempt(peer: DrainTarget, options: Options) -> DrainStatus:
    try:
        return await peer.drain(options)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise NotThis from None
        raise


async def wait(peer: DrainTarget, options: Options) -> None:
    told: tuple[int, bool] | None = None
    started_at = time.monotonic()
    try:
        async with aclosing(peer.reports()) as reports:
            async for status in reports:
                state = (status.num_sessions, status.safe_to_delete)
                if state != told:
                    told = state
                    tell(peer, status, options)
                if status.safe_to_delete:
                    return
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
    took_s = time.monotonic() - started_at
    raise CommandFailed(f"the {peer.kind} went away after {took_s:.0f} s, before it said that it is empty")


def tell(peer: DrainTarget, status: DrainStatus, options: Options) -> None:
    if options.json:
        values = MessageToDict(
            status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        print_json({"kind": peer.kind, **values})
    elif status.safe_to_delete:
        print(f"the {peer.kind} is empty: safe to delete")
    else:
        left = f", {seconds(status.time_left):.0f} s left" if status.HasField("time_left") else ""
        note(f"the {peer.kind} drains: {status.num_sessions} sessions{left}")


def explained(error: grpc.aio.AioRpcError, address: str) -> CascadeClientError:
    refused = unreachable(from_rpc(error), address)
    refused.args = (str(refused).replace("no gateway", "nobody"),)
    return refused
