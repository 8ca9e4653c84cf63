"""The way out: a running stream finishes, new calls are refused, every wait ends."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from cascade_core.errors import InvalidConfig
from services.common.server import Service, listening, running
from services.common.telemetry import Telemetry
from tests.paths import ROOT
from tests.services.common.test_errors import parts
from tests.services.common.test_health import NOT_SERVING, SERVING, until
from tests.services.support.echo import SAY, WAIT_S, Echo, chat, exchange, say, serving, settings


class Process:
    """A server process and its log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []

    async def logged(self, event: str) -> dict[str, Any]:
        """The next line of that event; every line is JSON."""
        assert self.process.stderr
        async with asyncio.timeout(60):
            async for line in self.process.stderr:
                self.log.append(json.loads(line))
                if self.log[-1]["event"] == event:
                    return self.log[-1]
        raise AssertionError(f"ended without {event!r}: {self.log}")

    async def end(self) -> int:
        return await asyncio.wait_for(self.process.wait(), WAIT_S)


async def start(**environment: str) -> asyncio.subprocess.Process:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CASCADE_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.services.support.echo_process"),
        env=clean | {"CASCADE_GRPC_PORT": "0", "PYTHONPATH": str(ROOT)} | environment,
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def echo_process(**environment: str) -> AsyncIterator[tuple[Process, grpc.aio.Channel]]:
    process = Process(await start(**environment))
    try:
        listening = await process.logged("listening")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{listening['port']}") as channel:
            await until(channel, SERVING)
            yield process, channel
    finally:
        if process.process.returncode is None:
            process.process.kill()
            await process.end()


async def refused(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await say(channel, "x")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value


async def test_sigterm_lets_a_stream_finish_and_refuses_new_ones() -> None:
    async with echo_process(CASCADE_DRAIN_DEADLINE_S="20") as (process, channel):
        stream = chat(channel)
        assert await exchange(stream, "a") == "a"
        process.process.send_signal(signal.SIGTERM)
        await until(channel, NOT_SERVING)
        await process.logged("draining")
        assert parts(await refused(channel))["ErrorInfo"].reason == "DRAINING"
        assert await exchange(stream, "b") == "b"
        assert await exchange(stream, "bye") == "bye"
        assert await process.logged("stopped")
        assert await process.end() == 0
        ended = next(line for line in process.log if line["event"] == "call ended" and line["code"] == "OK")
        assert ended["method"].startswith("/cascade.test.Echo/")
        assert {"peer", "request_id", "timestamp", "service", "duration_ms"} <= ended.keys()


async def test_a_second_signal_hurries() -> None:
    slow = {"CASCADE_DRAIN_DEADLINE_S": "600", "CASCADE_DRAIN_GRACE_S": "600", "CASCADE_DRAIN_HURRY_S": "0.1"}
    async with echo_process(**slow) as (process, channel):
        stream = chat(channel)
        await exchange(stream, "a")
        process.process.send_signal(signal.SIGTERM)
        await process.logged("draining")
        assert await exchange(stream, "b") == "b"
        process.process.send_signal(signal.SIGINT)
        assert await process.end() == 0


async def test_a_stream_that_stays_is_cancelled_at_the_end() -> None:
    echo = Echo()
    drain = {"deadline_s": 0.1, "grace_s": 0.1, "hurry_s": 0.1}
    async with serving(echo, drain=drain) as (server, channel):
        await exchange(chat(channel), "a")
        await asyncio.wait_for(server.close(), WAIT_S)
        await asyncio.wait_for(echo.was_cancelled.wait(), WAIT_S)


async def test_notice_comes_before_refusal_and_some_methods_stay_open() -> None:
    echo = Echo()
    service = {"open_while_draining": {SAY}}
    async with serving(echo, service=service, drain={"deadline_s": 20, "notice_s": 0.2}) as (server, channel):
        stream = chat(channel)
        await exchange(stream, "a")
        closing = asyncio.create_task(server.close())
        await until(channel, NOT_SERVING)
        assert not echo.draining.is_set()
        await asyncio.wait_for(echo.draining.wait(), WAIT_S)
        assert await say(channel, "status") == "status"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exchange(chat(channel), "b")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await exchange(stream, "bye")
        await asyncio.wait_for(closing, WAIT_S)


async def test_a_drain_that_fails_does_not_keep_the_server() -> None:
    async def broken(deadline_s: float) -> None:
        raise RuntimeError("no")

    async with serving(Echo(), service={"drain": broken}) as (server, _):
        await asyncio.wait_for(server.close(), WAIT_S)


async def test_a_bad_variable_ends_the_process_with_its_name() -> None:
    process = await start(CASCADE_GRPC_PORT="99999")
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert said.decode().strip() == "echo: CASCADE_GRPC_PORT: Input should be less than or equal to 65535"


async def test_a_taken_port_is_told_by_the_setting() -> None:
    async with serving(Echo()) as (server, _):
        with pytest.raises(InvalidConfig, match=r"grpc\.port"):
            async with running(settings(grpc={"port": server.port}), "echo", Echo().build()):
                pass


async def test_work_that_fails_ends_the_server_with_its_error() -> None:
    began = asyncio.Event()

    async def load() -> None:
        began.set()
        raise InvalidConfig("no such weights")

    async with listening(settings(), "echo", Echo().build(work=load)) as server:
        with pytest.raises(InvalidConfig, match="no such weights"):
            await asyncio.wait_for(server.run(), WAIT_S)
    assert began.is_set()


@pytest.mark.parametrize("is_done", [False, True])
async def test_work_that_ends_or_goes_on_does_not_end_the_server(is_done: bool) -> None:
    ended = asyncio.Event()

    async def load() -> None:
        try:
            await asyncio.sleep(0 if is_done else WAIT_S)
        finally:
            ended.set()

    async with listening(settings(), "echo", Echo().build(work=load)) as server:
        serving = asyncio.create_task(server.run())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            await until(channel, SERVING)
            if is_done:
                await asyncio.wait_for(ended.wait(), WAIT_S)
            assert await say(channel, "x") == "x"
        server.leave()
        await asyncio.wait_for(serving, WAIT_S)
    assert ended.is_set(), "cancelled with the server"


async def test_what_was_built_outlives_its_server() -> None:
    order: list[str] = []

    @asynccontextmanager
    async def build(telemetry: Telemetry) -> AsyncIterator[Service]:
        async def drain(deadline_s: float) -> None:
            order.append("drained")

        yield Echo().service(drain=drain)
        order.append("taken apart")

    async with running(settings(), "echo", build):
        pass
    assert order == ["drained", "taken apart"]
