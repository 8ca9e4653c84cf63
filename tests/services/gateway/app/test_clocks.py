"""Two gateways whose clocks differ by an hour share a Redis: they go by its clock, and no session notices."""

import asyncio
import time
from pathlib import Path

import grpc
import pytest

from cascade.v1 import session_pb2 as pb
from tests.services.support.gateway_support import CONTROLLER, reason_of, until
from tests.services.support.redis_support import RedisServer, needs_redis
from tests.services.support.two_gateways import pair

pytestmark = needs_redis
HOUR_S = 3600.0


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
async def test_a_session_goes_on_at_a_gateway_with_another_clock(
    redis: RedisServer, ahead_s: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its token is good there, it has lasted no longer, and its gap is no hour."""
    quotas = tmp_path / "quotas.toml"
    quotas.write_text('[[tenants]]\nname = "acme"\nmax_session_s = 600.0\n')
    async with pair(redis, quotas_file=quotas) as place:
        made = await place.first.acme.create(num_blocks=200)
        name, token = made.session.name, made.resume_token
        async with place.first.acme.attached(name) as stream:
            await stream.until_segments(2)
            await until(
                lambda: place.first.is_recorded
            )  # else its record may begin at block 0, without a gap
        await place.first.kill()
        right = time.time
        monkeypatch.setattr(time, "time", lambda: right() + ahead_s)  # gRPC's deadlines go by it, too
        second = place.second.acme.stream(with_credential=False)
        await second.attach(resume_token=token, role=CONTROLLER, after_sequence=stream.sequences[-1])
        await second.until(lambda: second.segments)
        await until(lambda: place.second.num_recovered("GATEWAY_LOST") == 1)  # some come from the record
        assert 0 < place.second.recovered("sum", "GATEWAY_LOST") < 60
        newest = second.segments[-1].create_time.ToMilliseconds() / 1000
        assert abs(newest - right()) < 60
        assert not second.all("ended")
        await second.cut()
        monkeypatch.undo()
        listed = (await place.second.acme.call("ListSessions", pb.ListSessionsRequest())).sessions
        assert [session.name for session in listed] == [name]
        assert abs(listed[0].start_time.ToMilliseconds() / 1000 - right()) < 60
        await place.second.acme.delete(name)


async def test_creations_at_two_gateways_at_once_never_pass_the_quota(redis: RedisServer) -> None:
    limit = 5
    async with pair(redis, max_sessions_per_tenant=limit) as place:
        tenants = (place.first.acme, place.second.acme)

        async def create(number: int) -> str:
            """Its name; empty where the quota forbids it."""
            try:
                return str((await tenants[number % 2].create()).session.name)
            except grpc.aio.AioRpcError as error:
                if reason_of(error) != "RESOURCE_EXHAUSTED QUOTA_EXCEEDED":
                    raise
            return ""

        made = await asyncio.gather(*(create(number) for number in range(13)))
        assert len([name for name in made if name]) == limit
        listed = (await tenants[0].call("ListSessions", pb.ListSessionsRequest())).sessions
        assert {session.name for session in listed} == {name for name in made if name}
        assert await tenants[0].delete(max(made))
        assert await create(0)
        assert not await create(1)
        assert await place.first.other.name(), "another tenant's"
