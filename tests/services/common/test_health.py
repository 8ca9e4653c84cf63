"""Health follows progress, on the wire."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.health import LIVE, Heartbeat, first_complaint
from tests.services.support.echo import NAME, WAIT_S, Echo, say, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def until(channel: grpc.aio.Channel, status: int, name: str = NAME) -> None:
    """Wait on the health service's own watch."""
    stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
    async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=WAIT_S):
        if answer.status == status:
            return
    raise AssertionError("the watch ended")


def test_only_waiting_work_makes_a_stall() -> None:
    clock = Clock()
    progress = Heartbeat("ticks", 10, clock)
    clock.now = 100
    assert progress.complaint() is None, "idle is healthy"
    progress.set_waiting(True)
    clock.now = 109
    assert progress.complaint() is None
    progress.set_waiting(True)
    clock.now = 110
    assert progress.complaint() == "no ticks for 10.0 s", "more work does not restart the clock"
    progress.advance()
    assert progress.complaint() is None
    clock.now = 125
    assert progress.complaint()
    progress.set_waiting(False)
    assert progress.complaint() is None


def test_a_condition_that_fails_is_a_complaint() -> None:
    def broken() -> str | None:
        raise RuntimeError("no NVML")

    assert first_complaint([lambda: None, broken]) == "a health condition failed: RuntimeError"


async def test_health_flips_when_progress_stops_and_comes_back() -> None:
    clock = Clock()
    progress = Heartbeat("ticks", 10, clock)
    loading: list[str | None] = ["loading weights"]
    conditions = [lambda: loading[0], progress.complaint]
    async with serving(Echo(), service={"conditions": conditions}) as (_, channel):
        await until(channel, NOT_SERVING)
        loading[0] = None
        await until(channel, SERVING)
        progress.set_waiting(True)
        clock.now = 11
        await until(channel, NOT_SERVING)
        await until(channel, NOT_SERVING, name="")
        await until(channel, SERVING, name=LIVE)
        assert await say(channel, "x") == "x", "a stalled server still answers"
        progress.advance()
        await until(channel, SERVING)


async def test_health_needs_no_key_and_no_room(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "keys.toml"
    path.write_text("keys = []\n")
    auth = {"modes": ["api_keys"], "keys_file": path}
    async with serving(Echo(), auth=auth, grpc={"max_concurrent_rpcs": 1}) as (_, channel):
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*(until(channel, SERVING) for _ in range(8)))
        stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
