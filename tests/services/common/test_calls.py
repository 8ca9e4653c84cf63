"""What is around a call: deadlines, credentials, validation, bounds, metrics, traces, logs."""

import asyncio
import hashlib
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cascade_core.errors import InvalidRequest
from services.common.interceptors import Chain, TracingInterceptor
from services.common.interceptors.errors import ErrorInterceptor
from services.common.interceptors.logs import LogInterceptor, bind_session
from tests.services.common.test_errors import parts
from tests.services.support.echo import CHAT, SAY, WAIT_S, Echo, chat, exchange, say, serving

Code = grpc.StatusCode


async def fails(channel: grpc.aio.Channel, value: str, **call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await say(channel, value, **call)
    return caught.value


@pytest.mark.parametrize(
    ("bounds", "asked"),
    [
        ({"default_deadline_s": 0.2}, None),
        ({"default_deadline_s": 0.2, "max_deadline_s": 0.2}, WAIT_S),
    ],
)
async def test_a_slow_handler_meets_the_servers_deadline(bounds: Any, asked: float | None) -> None:
    echo = Echo()
    async with serving(echo, grpc=bounds) as (_, channel):
        error = await fails(channel, "wait", timeout=asked)
        assert error.code() is Code.DEADLINE_EXCEEDED
        assert parts(error)["ErrorInfo"].reason == "DEADLINE_EXCEEDED"
        await asyncio.wait_for(echo.was_cancelled.wait(), WAIT_S)
        assert await say(channel, "next") == "next"


async def test_a_client_that_leaves_cancels_the_handler() -> None:
    echo = Echo()
    async with serving(echo) as (_, channel):
        stream = chat(channel)
        await exchange(stream, "a")
        stream.cancel()
        async with asyncio.timeout(WAIT_S):  # cancelled, or at the end of its requests, which may come first
            while echo.chats:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        echo.was_cancelled.clear()
        assert (await fails(channel, "wait", timeout=0.2)).code() is Code.DEADLINE_EXCEEDED
        await asyncio.wait_for(echo.was_cancelled.wait(), WAIT_S)


async def test_streams_outlast_the_default_deadline() -> None:
    async with serving(Echo(), grpc={"default_deadline_s": 0.05}) as (_, channel):
        stream = chat(channel)
        await exchange(stream, "a")
        await asyncio.sleep(0.2)
        assert await exchange(stream, "b") == "b"


def write_keys(path: Path, **keys: str) -> None:
    entries = []
    for name, key in keys.items():
        digest = hashlib.sha256(key.encode()).hexdigest()
        entries.append(f'[[keys]]\nname = "{name}"\ntenant = "acme"\nsha256 = "{digest}"\n')
    path.write_text("".join(entries))


def bearer(key: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {key}"),)}


async def test_api_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, alice="k1", bob="k2")
    async with serving(Echo(), auth={"modes": ["api_keys"], "keys_file": path}) as (_, channel):
        assert await say(channel, "who", **bearer("k2")) == "acme/bob"
        for call in ({}, bearer("k3"), bearer(""), {"metadata": (("authorization", "k1"),)}):
            error = await fails(channel, "who", **call)
            assert error.code() is Code.UNAUTHENTICATED
            assert "k3" not in str(error.details())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exchange(chat(channel), "a")
        assert caught.value.code() is Code.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed(channel)
        assert caught.value.code() is Code.UNAUTHENTICATED
        write_keys(path, alice="k4")
        assert await say(channel, "who", **bearer("k4")) == "acme/alice"
        path.write_text("[[keys]]\nname = 3\n")
        assert await say(channel, "who", **bearer("k4")) == "acme/alice", "a damaged file changes nothing"


async def listed(channel: grpc.aio.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]
    stream = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=WAIT_S
    )
    return {service.name async for answer in stream for service in answer.list_services_response.service}


async def test_reflection_lists_what_is_served() -> None:
    async with serving(Echo()) as (_, channel):
        assert await listed(channel) >= {"cascade.test.Echo", "grpc.health.v1.Health"}
    async with serving(Echo(), grpc={"reflection": False}) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed(channel)
        assert caught.value.code() is Code.UNIMPLEMENTED


class Invalid(InvalidRequest):
    violations = (("value", "must not be empty"),)


def validate(message: Message) -> None:
    assert isinstance(message, StringValue)
    if not message.value:
        raise Invalid("value: must not be empty")


async def test_each_message_is_validated_before_the_handler() -> None:
    echo = Echo()
    async with serving(echo, service={"validate": validate}) as (_, channel):
        error = await fails(channel, "")
        assert error.code() is Code.INVALID_ARGUMENT
        violation = parts(error)["BadRequest"].field_violations[0]
        assert (violation.field, violation.description) == ("value", "must not be empty")
        stream = chat(channel)
        assert await exchange(stream, "a") == "a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exchange(stream, "")
        assert caught.value.code() is Code.INVALID_ARGUMENT
        assert await say(channel, "still here") == "still here"
        assert "cascade.test.Echo" in await listed(channel), "other packages' messages have no rules"


async def test_bytes_that_are_no_message_and_messages_too_large() -> None:
    async with serving(Echo(), grpc={"max_receive_bytes": 2048}) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(SAY)(b"\xff\xff", timeout=WAIT_S)
        assert caught.value.code() is Code.INVALID_ARGUMENT
        stream = channel.stream_stream(CHAT)(iter([b"\xff\xff"]), timeout=WAIT_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is Code.INVALID_ARGUMENT
        assert (await fails(channel, "x" * 4096)).code() is Code.RESOURCE_EXHAUSTED
        assert await say(channel, "x" * 1024)


async def test_more_calls_than_the_bound_are_refused_as_retryable() -> None:
    async with serving(Echo(), grpc={"max_concurrent_rpcs": 2}) as (_, channel):
        streams = [chat(channel), chat(channel)]
        for stream in streams:
            await exchange(stream, "a")
        error = await fails(channel, "x")
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "RetryInfo" in parts(error)
        assert await exchange(streams[0], "bye") == "bye"
        async with asyncio.timeout(WAIT_S):
            while not await answers(channel):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def answers(channel: grpc.aio.Channel) -> bool:
    try:
        await say(channel, "x")
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_metrics_count_by_method_and_code() -> None:
    echo = Echo()
    async with serving(echo, telemetry={"metrics_port": 0}) as (server, channel):
        await say(channel, "x")
        echo.error = RuntimeError("x")
        await fails(channel, "x")
        stream = chat(channel)
        await exchange(stream, "a")
        text = await asyncio.to_thread(scrape, server.telemetry.metrics_port)
        labels = 'grpc_method="Say",grpc_service="cascade.test.Echo",grpc_type="unary"'
        assert f"grpc_server_started_total{{{labels}}} 2.0" in text
        assert f'grpc_server_handled_total{{grpc_code="OK",{labels}}} 1.0' in text
        assert f'grpc_server_handled_total{{grpc_code="INTERNAL",{labels}}} 1.0' in text
        assert f"grpc_server_handling_seconds_count{{{labels}}} 2.0" in text
        assert 'grpc_server_in_flight{grpc_method="Chat"' in text
        stream.cancel()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
        return str(answer.read().decode())


class EchoWithSpans(Echo):
    """Notes what is bound in a handler, and in a task it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.bound: dict[str, Any] = {}
        self.span = trace.INVALID_SPAN

    async def say(self, request: StringValue, context: Any) -> StringValue:
        if request.value == "session":
            bind_session("s-9", 4)
        self.bound = await asyncio.create_task(self.look())
        self.span = trace.get_current_span()
        return request

    async def look(self) -> dict[str, Any]:
        return structlog.contextvars.get_contextvars()


async def test_traces_and_log_context_follow_the_caller() -> None:
    exporter, provider, echo = InMemorySpanExporter(), TracerProvider(), EchoWithSpans()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    chain = Chain([TracingInterceptor(provider), LogInterceptor(), ErrorInterceptor()])
    server = grpc.aio.server(interceptors=[chain])
    echo.register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    metadata = (
        ("traceparent", f"00-{trace_id}-{parent}-01"),
        ("x-request-id", "r-7"),
        ("cascade-session", "s-1"),
        ("cascade-epoch", "2"),
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await say(channel, "x", metadata=metadata)
        expected = {"method": SAY, "request_id": "r-7", "session": "s-1", "epoch": "2"}
        assert expected.items() <= echo.bound.items()
        assert "127.0.0.1" in echo.bound["peer"]
        await say(channel, "session", metadata=(("x-request-id", "evil value"),))
        assert (echo.bound["session"], echo.bound["epoch"]) == ("s-9", 4)
        assert len(echo.bound["request_id"]) == 32, "a request id that is no word is replaced"
        await say(channel, "x")
        assert "session" not in echo.bound, "one call's context is not the next one's"
    await server.stop(0)
    span = exporter.get_finished_spans()[0]
    assert (span.name, span.kind) == ("cascade.test.Echo/Say", trace.SpanKind.SERVER)
    assert span.parent
    assert trace.format_trace_id(span.parent.trace_id) == trace_id
    attributes: Mapping[str, Any] = span.attributes or {}
    assert attributes["rpc.grpc.status_code"] == 0
