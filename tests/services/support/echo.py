"""A small service with the four ends a call can have, served by the real scaffold on loopback."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

from cascade_client.keep_status import keep_status
from cascade_core.config import make
from services.common.call import current_call
from services.common.server import Build, Server, Service, running
from services.common.settings import ServerSettings

NAME = "cascade.test.Echo"
SAY, CHAT = f"/{NAME}/Say", f"/{NAME}/Chat"
WAIT_S = 20.0
"""Bound of every wait in these tests; none of them comes near."""


class Echo:
    """Say: one answer. Chat: a stream that answers each message, until told `bye` or drained."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.was_cancelled = asyncio.Event()
        self.draining = asyncio.Event()
        self.chats = 0

    async def say(self, request: StringValue, context: Any) -> StringValue:
        if self.error:
            raise self.error
        if request.value == "wait":
            try:
                await asyncio.sleep(WAIT_S)
            except asyncio.CancelledError:
                self.was_cancelled.set()
                raise
        principal = current_call().principal
        return StringValue(
            value=f"{principal.tenant}/{principal.name}" if request.value == "who" else request.value
        )

    async def chat(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        self.chats += 1
        try:
            async for request in requests:
                if request.value == "fail":
                    assert self.error
                    raise self.error
                yield request
                if request.value == "bye":
                    return
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise
        finally:
            self.chats -= 1

    def register(self, server: grpc.aio.Server) -> None:
        methods = {
            "Say": grpc.unary_unary_rpc_method_handler(
                self.say, StringValue.FromString, StringValue.SerializeToString
            ),
            "Chat": grpc.stream_stream_rpc_method_handler(
                self.chat, StringValue.FromString, StringValue.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(NAME, methods)])

    async def drain(self, deadline_s: float) -> None:
        self.draining.set()
        async with asyncio.timeout(deadline_s):
            while self.chats:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def service(self, **changes: Any) -> Service:
        return replace(Service((NAME,), self.register, drain=self.drain), **changes)

    def build(self, **changes: Any) -> Build:
        return lambda telemetry: nullcontext(self.service(**changes))


def settings(**sections: Mapping[str, Any]) -> ServerSettings:
    """Any free port, and no wait longer than a test may last."""
    values = {"drain": {"deadline_s": 5, "grace_s": 1, "hurry_s": 0.2}, "health": {"check_interval_s": 0.02}}
    values |= sections
    values["grpc"] = {"port": 0, **sections.get("grpc", {})}
    return make(ServerSettings, values)


@asynccontextmanager
async def serving(
    echo: Echo, *, service: Mapping[str, Any] | None = None, **sections: Mapping[str, Any]
) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    """The running server and a plain channel to it."""
    async with (
        running(settings(**sections), "echo", echo.build(**(service or {}))) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield server, channel


async def say(channel: grpc.aio.Channel, value: str, **call: Any) -> str:
    method = channel.unary_unary(SAY, StringValue.SerializeToString, StringValue.FromString)
    answer = await method(StringValue(value=value), **({"timeout": WAIT_S} | call))
    return str(answer.value)


def chat(channel: grpc.aio.Channel, **call: Any) -> Any:
    """An open stream: `await write(StringValue)`, `await read()`; a refusal that meets a write is told."""
    method = channel.stream_stream(CHAT, StringValue.SerializeToString, StringValue.FromString)
    stream = method(**({"timeout": WAIT_S} | call))
    keep_status(stream)
    return stream


async def exchange(stream: Any, value: str) -> str:
    await stream.write(StringValue(value=value))
    answer = await asyncio.wait_for(stream.read(), WAIT_S)
    assert isinstance(answer, Message), answer
    return str(answer.value)
