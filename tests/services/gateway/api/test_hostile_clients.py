"""Clients that mean harm or are broken: they are refused as the contract says, and nobody else notices."""

import asyncio
import gc
import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from cascade.v1 import session_pb2 as pb
from cascade_core.errors import InvalidConfig
from services.common import streams
from services.common.environment import load_settings
from services.gateway.base.settings import Settings
from tests.services.support.gateway_support import Town, fails, open_channel, reason_of, town, until

MALFORMED = "INVALID_ARGUMENT MALFORMED"
INVALID = "INVALID_ARGUMENT INVALID_FIELD"
NUM_CONNECTIONS = 2000
FLAT_BYTES = 32 * 2**20
METHODS = (
    "CreateSession",
    "GetSession",
    "ListSessions",
    "DeleteSession",
    "SwitchPrompt",
    "PauseSession",
    "ResumeSession",
    "IssueResumeToken",
)


def raw(channel: grpc.aio.Channel, method: str) -> Any:
    """A call whose request are any bytes."""
    return channel.unary_unary(f"/cascade.v1.SessionService/{method}")


def raw_connect(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream("/cascade.v1.SessionService/Connect")()


async def check_healthy(place: Town) -> None:
    """A new session plays to its end."""
    name = await place.anybody.name(num_blocks=2)
    async with place.anybody.attached(name) as stream:
        await stream.until_over()
    assert stream.end_reason == "COMPLETE"


async def test_prompts_that_are_too_long_are_refused() -> None:
    async with town() as place:
        name = await place.anybody.name()
        for text in ("x" * 32769, "x" * 2**20, "", " \n\t "):
            with fails(INVALID) as details:
                await place.anybody.create(prompts={0: text})
            assert details[0]["BadRequest"].field_violations[0].field.startswith("spec.prompts")
            with fails(INVALID):
                await place.anybody.switch(name, text)
        await place.anybody.switch(name, "x" * 32768)
        with fails(INVALID):
            await place.anybody.create(prompts={5: "no entry for block 0"})
        await check_healthy(place)


async def test_messages_beyond_the_limit_are_refused_by_the_library() -> None:
    text = "x" * (10 * 2**20)
    async with town() as place:
        request = pb.SwitchPromptRequest(name="sessions/x", request_id="r")
        request.prompt_switch.text = text
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await place.anybody.call("SwitchPrompt", request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.send(switch_prompt={"request_id": "r", "prompt_switch": {"text": text}})
            await stream.until_over()
            assert stream.error is not None
            assert stream.error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await check_healthy(place)


async def test_bytes_that_are_no_message_are_told_apart() -> None:
    async with town() as place:
        for method in METHODS:
            for garbage in (b"\xff\xff\xff", b"\x0a\xff", bytes(range(256))):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await raw(place.channel, method)(garbage, timeout=10)
                assert reason_of(caught.value) == MALFORMED, method
            if method != "ListSessions":
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await raw(place.channel, method)(b"", timeout=10)
                assert reason_of(caught.value) == INVALID, method
        for garbage, reason in ((b"\xff\xff\xff", MALFORMED), (b"", INVALID)):
            call = raw_connect(place.channel)
            await call.write(garbage)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert reason_of(caught.value) == reason
        await check_healthy(place)


async def test_unknown_fields_are_ignored_and_unknown_values_refused() -> None:
    async with town() as place:
        request = pb.CreateSessionRequest(request_id="r", spec={"prompts": {0: "a red circle"}})
        unknown = b"\x98\x06\x2a"  # field 99
        answer = await raw(place.channel, "CreateSession")(request.SerializeToString() + unknown, timeout=10)
        assert pb.CreateSessionResponse.FromString(answer).session.name
        with fails(INVALID) as details:
            await place.anybody.create(priority=77)
        assert details[0]["BadRequest"].field_violations[0].field == "spec.priority"
        with fails(INVALID):
            await place.anybody.create(switch_mode=9)
        with fails(INVALID):
            await place.anybody.call("ListSessions", pb.ListSessionsRequest(states=[0]))
        name = await place.anybody.name()
        with fails(INVALID):
            await place.anybody.call("IssueResumeToken", pb.IssueResumeTokenRequest(name=name, role=0))


async def test_a_page_token_belongs_to_its_filter() -> None:
    async with town(stages=[]) as place:
        names = [await place.anybody.name(labels={"n": str(number)}) for number in range(5)]
        seen, token = [], ""
        while True:
            request = pb.ListSessionsRequest(page_size=2, page_token=token)
            page = await place.anybody.call("ListSessions", request)
            seen += [session.name for session in page.sessions]
            token = page.next_page_token or token
            if not page.next_page_token:
                break
        assert sorted(seen) == sorted(names)
        assert seen == names[::-1], "newest first"
        for bad in (
            "nonsense",
            token[:-1] + "~",
            "x." + token.partition(".")[2],
            token.partition(".")[0] + ".",
        ):
            with fails("INVALID_ARGUMENT INVALID_PAGE_TOKEN"):
                await place.anybody.call("ListSessions", pb.ListSessionsRequest(page_token=bad))
        request = pb.ListSessionsRequest(page_token=token, labels={"n": "1"})
        with fails("INVALID_ARGUMENT INVALID_PAGE_TOKEN"):
            await place.anybody.call("ListSessions", request)
        found = await place.anybody.call("ListSessions", pb.ListSessionsRequest(labels={"n": "3"}))
        assert [session.name for session in found.sessions] == [names[3]]
        found = await place.anybody.call("ListSessions", pb.ListSessionsRequest(states=[6]))
        assert not found.sessions


async def test_thousands_of_connections_that_say_nothing_harm_nobody() -> None:
    async with town() as place, AsyncSockets(place.server.port) as sockets:
        await sockets.open(NUM_CONNECTIONS)
        await check_healthy(place)


class AsyncSockets:
    """TCP connections that never speak."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stack = ExitStack()

    async def __aenter__(self) -> "AsyncSockets":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()

    async def open(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < 3 * number:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 3 * number), hard))
            self._stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(number):
            line = self._stack.enter_context(socket.socket())
            line.setblocking(False)
            await asyncio.wait_for(loop.sock_connect(line, ("127.0.0.1", self._port)), 20.0)


async def test_streams_that_never_attach_are_bounded_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MESSAGE_DEADLINE_S", 1.5)
    async with town() as place:
        before, growth = memory_bytes(), [0]
        while len(growth) < 3 or (growth[-1] > FLAT_BYTES and len(growth) < 6):  # an allocator may be late
            await many_silent_streams(place, NUM_CONNECTIONS // 2)
            gc.collect()
            growth.append(memory_bytes() - before)
            before += growth[-1]
        assert growth[-1] <= FLAT_BYTES, f"each thousand takes more: {growth}"
        await until(lambda: not place.registry.shared.admission.num_busy)
        await check_healthy(place)


async def many_silent_streams(place: Town, number: int) -> None:
    """They are let be for a while, and the service answers meanwhile."""
    channels = [open_channel(place.server.port) for _ in range(4)]
    try:
        calls = [raw_connect(channels[at % 4]) for at in range(number)]
        await asyncio.gather(*(call.wait_for_connection() for call in calls[:8]), return_exceptions=True)
        await check_healthy(place)
        codes = await asyncio.wait_for(asyncio.gather(*(call.code() for call in calls)), 60.0)
        assert {code.name for code in codes} <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
        assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
    finally:
        for channel in channels:
            await channel.close()


def memory_bytes() -> int:
    """Resident, of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_more_calls_than_the_server_takes_are_refused_with_a_reason() -> None:
    async with town() as place:
        assert place.server.settings.grpc.max_concurrent_rpcs
        place.server._gate._num_calls += place.server.settings.grpc.max_concurrent_rpcs
        with fails("RESOURCE_EXHAUSTED OVERLOADED"):
            await place.anybody.create()
        place.server._gate._num_calls -= place.server.settings.grpc.max_concurrent_rpcs
        await check_healthy(place)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CASCADE_GATEWAY_LEASE_S", "0"),
        ("CASCADE_GATEWAY_KEPT_SEGMENTS", "many"),
        ("CASCADE_GATEWAY_MAX_UNACKED_SEGMENTS", "65"),
        ("CASCADE_GATEWAY_QUEUE_LENGTH", "-1"),
        ("CASCADE_GATEWAY_NO_SUCH_FIELD", "1"),
        ("CASCADE_GRPC_PORT", "70000"),
        ("CASCADE_PEER_MAX_MESSAGE_BYTES", "lots"),
    ],
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidConfig, match=variable):
        load_settings(Settings)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"CASCADE_GATEWAY_MAX_UNACKED_SEGMENTS": "33"}, "max_unacked"),
        ({"CASCADE_GATEWAY_KEPT_SEGMENTS": "8"}, "kept_segments"),
        ({"CASCADE_GATEWAY_REDIS_URL": "redis://127.0.0.1"}, "token_key_file"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], named: str
) -> None:
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidConfig, match=named):
        load_settings(Settings)
