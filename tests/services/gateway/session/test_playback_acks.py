"""Controllers that say what their players have: blocks are held back until they are needed, and never longer.

At one picture a second block 1 begins at 9 s and each later one 12 s after the one before: what is held back
here is so for longer than any test lasts.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from cascade.v1 import session_pb2 as pb
from tests.services.gateway.app.test_overview import overview
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import (
    VIEWER,
    AttachedStream,
    Town,
    duration,
    fails,
    town,
    until,
)
from tests.services.support.redis_support import RedisServer, needs_redis
from tests.services.support.two_gateways import pair

FPS = 1
CREDIT = 2
LOOK_S = 0.2
"""What is not held back comes sooner by far."""


def has(playhead_s: float, buffered_s: float = 0.0, **more: Any) -> pb.ConnectRequest.Playback:
    return pb.ConnectRequest.Playback(playhead=duration(playhead_s), buffered=duration(buffered_s), **more)


async def tell(stream: AttachedStream, sequence: int, playback: pb.ConnectRequest.Playback | None) -> None:
    await stream.send(ack={"sequence": sequence, "playback": playback})


def start_s(block: int) -> float:
    return (12 * block - 3) / FPS


async def hold(stream: AttachedStream) -> None:
    """Play until a block is held back."""
    await stream.until_sequence(2)
    await tell(stream, 1, None)  # as who says nothing of a player
    await stream.until_sequence(3)
    await tell(stream, 2, has(start_s(1), start_s(3) - start_s(1)))
    await asyncio.sleep(LOOK_S)
    assert stream.sequences[-1] == 3, "block 3 is needed in 24 s"


@asynccontextmanager
async def held(place: Town, **attach: Any) -> AsyncIterator[tuple[str, AttachedStream]]:
    """A session of which a block is held back."""
    name = await place.anybody.name(fps=FPS)
    async with place.anybody.attached(name, acks=False, **attach) as stream:
        await hold(stream)
        yield name, stream


async def test_a_block_is_held_back_until_it_is_needed_and_is_then_there() -> None:
    async with town(max_unacked_segments=CREDIT) as place, held(place, with_ticks=True) as (name, stream):
        assert stream.all("attached")[0].just_in_time
        await tell(stream, 2, has(start_s(3) - 1.5, 1.5))
        await asyncio.sleep(LOOK_S / 2)
        assert stream.sequences[-1] == 3, "0.5 s of margin is needed, and next to nothing for the making"
        await stream.until_sequence(4)
        lead_s = stream.all("block_made")[-1].lead.ToMilliseconds() / 1000
        needed_in_s = place.stage.streams[-1].needed_in_s
        assert 0.4 < needed_in_s <= lead_s < 1.4, "the stage knows by when, decoding and delivery apart"
        await asyncio.sleep(LOOK_S)
        assert stream.sequences[-1] == 4, "the limit of the acks"
        session = await place.anybody.get(name)
        assert session.last_sequence == session.acked_sequence + CREDIT


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(has(start_s(1), 0.0, waiting=True), id="it waits"),
        pytest.param(has(2.0**31), id="it is far ahead"),
        pytest.param(has(start_s(3)), id="it is there"),
    ],
)
async def test_what_a_player_needs_now_is_made_at_once(said: pb.ConnectRequest.Playback) -> None:
    async with town(max_unacked_segments=CREDIT) as place, held(place) as (_, stream):
        await tell(stream, 2, said)
        await stream.until_sequence(4)
        await asyncio.sleep(LOOK_S)
        assert stream.sequences == [1, 2, 3, 4], "never more than acks allow"


async def test_a_player_that_says_the_same_for_ever_gets_its_blocks_in_time() -> None:
    """At its pace: the acks alone tell where it is. A video of 0.1 s a block, so that there is an end."""
    async with town(max_unacked_segments=CREDIT) as place:
        name = await place.anybody.name(fps=120, num_blocks=20)
        async with place.anybody.attached(name, acks=False) as stream:
            for sequence in range(1, 21):
                await stream.until_sequence(sequence)
                await tell(stream, sequence, has(0.0, 3600.0))
            await stream.until_over()
        assert stream.sequences == list(range(1, 21))


async def test_stalls_make_the_lead_longer_and_are_shown() -> None:
    async with town(max_unacked_segments=CREDIT) as place, held(place) as (_, stream):
        (live,) = place.registry.sessions
        planner = live.just_in_time

        def lead_s() -> float:
            return planner.lead_s(planner._heard) or 0.0

        def counted(number: int) -> bool:
            return planner.num_stalls == number

        before_s = lead_s()
        for num_stalls in (1, 2, 2**32 - 1):
            await tell(stream, 2, has(start_s(1), 20.0, num_stalls=num_stalls))
            await until(partial(counted, num_stalls))
        assert lead_s() - before_s == pytest.approx(0.5 * 2**3 - 0.5, abs=0.5)
        assert place.metric("cascade_player_stalls_total") == 3
        await tell(stream, 2, has(start_s(2), 12.0, num_stalls=2**32 - 1))
        await asyncio.sleep(LOOK_S)
        (view,) = (await overview(place)).sessions
        assert view.lead.ToMilliseconds() / 1000 == pytest.approx(lead_s(), abs=0.1)
        assert 11 < view.made_ahead.ToMilliseconds() / 1000 <= 12
        assert view.num_stalls == 2**32 - 1
        await tell(stream, 2, has(start_s(3)))
        await stream.until_sequence(4)
        assert place.metric("cascade_made_ahead_seconds_count") == 1
        assert place.metric("cascade_lead_seconds_count") >= 1


@pytest.mark.parametrize("way", ["leaves", "another takes over", "says nothing"])
async def test_without_word_of_a_player_all_is_made_that_acks_allow(way: str) -> None:
    async with town(max_unacked_segments=CREDIT) as place, held(place) as (name, stream):
        (live,) = place.registry.sessions
        if way == "leaves":
            await stream.cut()
        elif way == "another takes over":
            other = await place.anybody.attach_again(name=name)
            other.acks = False
        await until(lambda: (live.record.next_decoder_block == 4) == (way != "says nothing"))
        if way == "says nothing":  # it goes by what it heard last
            await tell(stream, 2, None)
            await asyncio.sleep(LOOK_S)
            assert live.record.next_decoder_block == 3


async def test_viewers_never_matter() -> None:
    async with (
        town(max_unacked_segments=CREDIT) as place,
        held(place) as (name, stream),
        place.anybody.attached(name, role=VIEWER, acks=False) as viewer,
    ):
        await viewer.until_segments(1)
        assert not viewer.all("attached")[0].just_in_time
        for said in (has(2.0**31), has(0.0, waiting=True), has(0.0, num_stalls=9)):
            await tell(viewer, 1, said)
        await asyncio.sleep(LOOK_S)
        assert stream.sequences[-1] == 3
        (live,) = place.registry.sessions
        assert live.just_in_time.num_stalls == 0


async def test_the_setting_turns_it_off() -> None:
    async with town(just_in_time=False, max_unacked_segments=CREDIT) as place:
        name = await place.anybody.name(fps=FPS)
        async with place.anybody.attached(name, acks=False) as stream:
            assert not stream.all("attached")[0].just_in_time
            for sequence in range(1, 6):
                await stream.until_sequence(sequence + 1)
                await tell(stream, sequence, has(0.0, 3600.0))
            await stream.until_sequence(7)


@pytest.mark.parametrize("kind", ["stage", "decoder"])
async def test_a_session_that_lost_a_machine_meanwhile_goes_on_at_once(kind: str) -> None:
    """However far the block is off: how long another machine takes is not known yet."""
    async with (
        town(stages=[FakeStage(), FakeStage()], max_unacked_segments=CREDIT) as place,
        held(place) as (_, stream),
    ):
        if kind == "stage":
            (busy,) = (each for each in place.stages if each.streams)
            await busy.kill()
        else:
            await place.decoder.kill()
            await place.decoder.start()
        await stream.first("recovery_done")
        await stream.until_sequence(4)
        await tell(stream, 3, has(start_s(2), 24.0))
        await asyncio.sleep(LOOK_S)
        assert stream.sequences == [1, 2, 3, 4], "and is then held back again"


async def test_with_parts_the_first_part_is_what_counts() -> None:
    whole_s = 0.6
    async with town(decoders=[FakeDecoder(block_s=whole_s)], max_unacked_segments=CREDIT) as place:
        name = await place.anybody.name(fps=FPS)
        async with place.anybody.attached(name, acks=False, with_parts=True) as stream:
            await stream.until_sequence(1)
            assert stream.all("part")
            (live,) = place.registry.sessions
            await tell(stream, 1, has(0.0, 4.0))
            await until(lambda: live.just_in_time.making.after.seconds)
            assert (live.just_in_time.making.after.seconds or whole_s) < whole_s


async def test_a_pause_and_what_follows() -> None:
    async with town(max_unacked_segments=CREDIT) as place, held(place) as (name, stream):
        await place.anybody.pause(name)
        await tell(stream, 2, has(start_s(3)))
        await asyncio.sleep(LOOK_S)
        assert stream.sequences[-1] == 3
        await place.anybody.resume(name)
        await stream.until_sequence(4)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"playhead": {"seconds": -1}}, "playhead"),
        ({"playhead": {"seconds": 2**31 + 1}}, "playhead"),
        ({"playhead": {"nanos": -1}}, "playhead"),
        ({"playhead": {}, "buffered": {"seconds": -1}}, "buffered"),
        ({"playhead": {}, "buffered": {"seconds": 3601}}, "buffered"),
        ({"buffered": {}}, "playhead"),
    ],
)
async def test_what_no_player_can_have_is_refused_by_its_name(wrong: dict[str, Any], field: str) -> None:
    async with town(max_unacked_segments=CREDIT) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name, acks=False) as stream:
            await stream.until_segments(1)
            await stream.send(ack={"sequence": 1, "playback": wrong})
            await stream.until_over()
        with fails("INVALID_ARGUMENT INVALID_FIELD") as found:
            assert stream.error
            raise stream.error
        (violation,) = found[0]["BadRequest"].field_violations
        assert violation.field == f"ack.playback.{field}"


@needs_redis
async def test_through_another_gateway_and_after_the_loss_of_its_own(redis: RedisServer) -> None:
    async with pair(redis, max_unacked_segments=CREDIT) as both:
        name = await both.first.acme.name(fps=FPS)
        async with both.second.acme.attached(name, acks=False) as stream:
            assert stream.all("attached")[0].just_in_time
            await hold(stream)
        await both.first.kill()
        again = await both.second.acme.attach_again(name=name, after_sequence=3)
        again.acks = False
        await tell(again, 2, None)  # what the journal may lack
        await again.until_sequence(4)
        await tell(again, 4, None)
        await again.until_sequence(6)  # it has timed each step by now
        await tell(again, 6, has(start_s(5), 24.0))
        await asyncio.sleep(LOOK_S)
        assert again.sequences[-1] <= 7, "held back again: acks allow 8"
        await tell(again, 6, has(start_s(6), 0.0, waiting=True))
        await again.until_sequence(8)
        await again.cut()
