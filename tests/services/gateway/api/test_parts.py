"""Parts of segments over Connect: they are the segment, come before it, and are void after a loss."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from itertools import pairwise

import cascade_client as sdk
from cascade.v1 import session_pb2 as pb
from cascade_client import Client
from cascade_core.errors import SessionLost
from services.gateway.session.attachment import Attachment, Part
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_machine import Mark
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import AttachedStream, Town, town, until

BLOCK_S = 0.06
"""Long enough for a client to read between two parts."""
Response = pb.ConnectResponse
Run = list[Response.Part]


def slow_town(*decoders: FakeDecoder) -> AbstractAsyncContextManager[Town]:
    return town(stages=[FakeStage()], decoders=decoders or [FakeDecoder(block_s=BLOCK_S)])


def runs(stream: AttachedStream) -> list[Run]:
    """The parts, anew with each index 0."""
    found: list[Run] = []
    for part in stream.all("part"):
        if part.index == 0:
            found.append([])
        found[-1].append(part)
    return found


def check_parts(stream: AttachedStream) -> None:
    """In order, from 0 on, of one segment and one making, and before it; its pictures without a gap."""
    newest = 0
    for event in stream.events:
        if event.HasField("segment"):
            newest = event.segment.sequence
        if event.HasField("part"):
            assert event.part.sequence == newest + 1
    for run in runs(stream):
        assert [part.index for part in run] == list(range(len(run)))
        assert len({(part.sequence, part.epoch) for part in run}) == 1
        for one, following in pairwise(part.media for part in run):
            assert following.first_frame == one.first_frame + one.num_frames


def video(stream: AttachedStream, segment: Response.Segment) -> bytes:
    """What a player has of it."""
    if not segment.num_parts:
        return segment.media.data
    assert not segment.media.data
    run = [each for each in runs(stream) if each[0].sequence == segment.sequence][-1]
    assert len(run) == segment.num_parts
    return b"".join(part.media.data for part in run)


def in_parts(stream: AttachedStream) -> Sequence[Response.Segment]:
    return [segment for segment in stream.segments if segment.num_parts]


async def test_who_asks_gets_each_segment_in_parts_the_others_whole() -> None:
    async with slow_town() as place:
        name = await place.anybody.name(profiles=[{"id": "high"}, {"id": "low"}])
        async with (
            place.anybody.attached(name, with_parts=True) as stream,
            place.anybody.attached(name, role="CONNECT_ROLE_VIEWER") as plain,
            place.anybody.attached(
                name, role="CONNECT_ROLE_VIEWER", with_parts=True, profile_id="low"
            ) as viewer,
        ):
            await stream.until(lambda: len(in_parts(stream)) >= 3)
            await viewer.until(lambda: len(in_parts(viewer)) >= 3)
            await plain.until_sequence(stream.sequences[-1])
            check_parts(stream)
            check_parts(viewer)
            assert not plain.all("part")
            whole = {each.sequence: each.media.data for each in plain.segments}
            assert min(map(len, whole.values())) > 0
            assert not any(each.num_parts for each in plain.segments)
            for segment in stream.segments:
                assert video(stream, segment) == whole[segment.sequence]
                assert segment.media.profile_id == "high"
            for segment in viewer.segments:
                assert Mark.of(video(viewer, segment)).block == segment.media.block
            assert {part.media.profile_id for part in viewer.all("part")} == {"low"}


async def test_who_attaches_amid_the_first_segment_gets_what_is_there_of_it() -> None:
    """A session is made from its creation on, and its client attaches a moment later."""
    decoder = FakeDecoder()
    decoder.gate.clear()
    async with slow_town(decoder) as place:
        name = await place.anybody.name()
        await until(lambda: decoder.num_parts == 2)
        async with place.anybody.attached(name, with_parts=True) as stream:
            await stream.until(lambda: len(stream.all("part")) == 2)
            decoder.gate.set()
            await stream.until_segments(1)
            check_parts(stream)
            assert stream.segments[0].num_parts == 3
            assert Mark.of(video(stream, stream.segments[0])).block == 0


async def test_a_segment_whose_decoder_was_lost_begins_anew_in_the_next_epoch() -> None:
    """Its first decoder has given all parts of block 3 when it breaks off."""
    decoders = [FakeDecoder(block_s=BLOCK_S), FakeDecoder(block_s=BLOCK_S)]
    for decoder in decoders:
        decoder.faults[3] = [SessionLost("the worker died")]
    async with (
        slow_town(*decoders) as place,
        place.anybody.attached(await place.anybody.name(), with_parts=True) as stream,
    ):
        await stream.until_sequence(7)
        check_parts(stream)
        assert stream.sequences == list(range(1, len(stream.sequences) + 1))
        tries = [run for run in runs(stream) if run[0].sequence == 4]
        assert [run[0].epoch for run in tries] == sorted({run[0].epoch for run in tries})
        for segment in stream.segments:
            assert Mark.of(video(stream, segment)).block == segment.media.block
        done = await stream.first("recovery_done")
        assert done.first_sequence == 4


async def test_a_segment_made_again_by_a_decoder_without_parts_comes_whole() -> None:
    """One of a former release: what the client had of the lost decoder's is not counted for it."""
    decoder = FakeDecoder(block_s=BLOCK_S)
    decoder.faults[2] = ["die"]
    async with (
        slow_town(decoder) as place,
        place.anybody.attached(await place.anybody.name(), with_parts=True) as stream,
    ):
        await stream.first("recovery_started")
        decoder.has_parts = False
        await decoder.start()
        await stream.until_sequence(6)
        check_parts(stream)
        assert any(run[0].sequence == 3 for run in runs(stream))
        assert all(Mark.of(video(stream, each)).block == each.media.block for each in stream.segments)
        assert not any(each.num_parts for each in stream.segments if each.sequence >= 3)


async def test_the_sdk_tells_of_parts_and_puts_segments_together() -> None:
    async with slow_town() as place, Client(f"127.0.0.1:{place.server.port}") as client:
        session = await client.create("a red circle")
        seen: list[sdk.Part] = []
        num_in_parts = 0
        async with client.connect(session, with_parts=True) as stream:
            async for event in stream:
                if isinstance(event, sdk.Part):
                    seen.append(event)
                if not isinstance(event, sdk.Segment):
                    continue
                assert Mark.of(event.data).block == event.block
                own = [each for each in seen if each.sequence == event.sequence]
                if sum(each.num_frames for each in own) == event.num_frames:
                    assert b"".join(each.data for each in own) == event.data
                    assert own[0].time_s == event.time_s
                    num_in_parts += 1
                if num_in_parts == 3:
                    break


def part(sequence: int, index: int, epoch: int = 1) -> Part:
    return Part(sequence, epoch, index, 4, b"%d.%d" % (sequence, index))


async def taken(attachment: Attachment) -> list[int | Part | Response | None]:
    """All that waits."""
    attachment.close()
    found: list[int | Part | Response | None] = []
    while (item := await attachment.take()) is not None:
        found.append(item)
    return found


async def test_who_reads_slowly_holds_no_more_than_one_segment_in_parts() -> None:
    """The segments whose parts were not put come whole."""
    attachment = Attachment(is_controller=True, with_parts=True)
    for sequence in range(1, 100):
        for index in range(3):
            attachment.put_part(part(sequence, index))
        attachment.put_segment(sequence)
    assert await taken(attachment) == [*(part(1, index) for index in range(3)), *range(1, 100)]


async def test_who_attaches_amid_a_segment_gets_it_whole() -> None:
    attachment = Attachment(is_controller=True, with_parts=True)
    attachment.put_part(part(5, 1))
    attachment.put_part(part(5, 2))
    attachment.put_segment(5)
    assert await attachment.take() == 5
    for index in range(3):
        attachment.put_part(part(6, index))
    assert await taken(attachment) == [part(6, index) for index in range(3)]
    assert (attachment.parts.sequence, attachment.parts.num_parts, attachment.parts.num_frames) == (6, 3, 12)


async def test_parts_of_a_segment_that_is_made_anew_are_dropped() -> None:
    attachment = Attachment(is_controller=False, with_parts=True)
    for index in range(2):
        attachment.put_part(part(5, index))
    await attachment.take()
    attachment.void_parts()
    attachment.put_part(part(5, 2))
    for index in range(3):
        attachment.put_part(part(5, index, epoch=2))
    assert await taken(attachment) == [part(5, index, epoch=2) for index in range(3)]
    assert attachment.parts.num_parts == 3


async def test_a_viewer_that_jumps_ahead_leaves_parts_behind() -> None:
    attachment = Attachment(is_controller=False, with_parts=True, max_behind=2)
    attachment.put_part(part(1, 0))
    for sequence in (1, 2, 3):
        attachment.put_segment(sequence)
    items = await taken(attachment)
    assert [item for item in items if isinstance(item, int | Part)] == [3]


async def test_who_wants_no_parts_gets_none() -> None:
    attachment = Attachment(is_controller=True)
    attachment.put_part(part(1, 0))
    attachment.put_segment(1)
    assert await taken(attachment) == [1]
    late = Attachment(is_controller=True, with_parts=True, first_sequence=3)
    late.put_part(part(2, 0))
    assert await taken(late) == []
