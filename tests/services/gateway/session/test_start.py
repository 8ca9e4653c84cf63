"""Sessions that go on from a picture or a clip: what stages and decoders get of it, what clients see, and
what becomes of it when something is lost in the first blocks."""

import asyncio
from typing import Any

import grpc
import pytest

from cascade.v1 import common_pb2
from cascade.v1 import session_pb2 as pb
from cascade_core.errors import SessionLost
from services.common.errors import Draining, NotReady, UnsupportedMedia
from tests.services.common.test_errors import parts
from tests.services.support.fake_decoder import ENCODE, FIRST_FRAME, UNUSABLE, FakeDecoder
from tests.services.support.fake_machine import Fault, prompt_mark
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import AttachedStream, Town, reason_of, town, until

NUM_BLOCKS = 8
CLIP = common_pb2.StartFile(video=b"five!")
"""The fake decoder makes a block of each byte; what the fake stage looks back on is three of them."""
PICTURE = common_pb2.StartFile(image=b"a picture")
GIVEN = prompt_mark("video")


async def play(place: Town, **spec: Any) -> AttachedStream:
    name = await place.anybody.name(num_blocks=NUM_BLOCKS, **spec)
    async with place.anybody.attached(name) as stream:
        await stream.until_over()
    assert stream.end_reason == "COMPLETE", stream.events[-1]
    assert stream.sequences == list(range(1, NUM_BLOCKS + 1))
    assert [segment.media.block for segment in stream.segments] == list(range(NUM_BLOCKS))
    return stream


async def refused(place: Town, **spec: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await place.anybody.create(**spec)
    return caught.value


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    return [violation.field for violation in parts(error)["BadRequest"].field_violations]


async def test_a_clip_comes_before_the_first_segment() -> None:
    async with town() as place:
        stream = await play(place, start=CLIP, prompts={0: "one", 2: "two"})
        (stage,), (decoder,) = place.stage.streams, place.decoder.streams
        opening = stage.opening
        assert (opening.start_block, opening.num_blocks, dict(opening.prompts)) == (
            3,
            8,
            {3: "one", 5: "two"},
        )
        assert [(mark.block, mark.prompt) for mark in stage.context] == [(n, GIVEN) for n in range(3)]
        assert (decoder.opening.start_block, decoder.opening.origin_block) == (3, 3)
        assert [(mark.block, mark.prompt) for mark in decoder.warmup] == [(1, GIVEN), (2, GIVEN)]
        assert [mark.block for mark in stream.marks] == list(range(3, 11)), "the clip itself is not sent"
        assert [segment.media.first_frame for segment in stream.segments] == [12 * n for n in range(8)]
        session = await place.anybody.get(stream.all("attached")[0].session.name)
        assert session.num_given_blocks == 3
        assert session.spec.start.WhichOneof("file") == "video"
        assert session.spec.start.video == b"", "nobody needs the file again"
        (request,) = place.decoder.encoded
        assert (request.width, request.height, request.max_blocks) == (64, 64, 3)


async def test_receipts_and_switches_count_from_the_first_segment() -> None:
    async with town(stages=[FakeStage(capacity=0)]) as place:
        name = await place.anybody.name(num_blocks=NUM_BLOCKS, start=CLIP)
        await place.anybody.switch(name, "first", "at-once")
        await place.anybody.switch(name, "later", "at-5", at_block=5)
        place.stage.set_capacity(1)
        async with place.anybody.attached(name) as stream:
            await stream.until_over()
        at_once, later = await stream.receipt("at-once"), await stream.receipt("at-5")
        assert (at_once.first_block_touched, later.first_block_touched) == (0, 5)
        assert later.touched_presentation_time.ToNanoseconds() == 5 * 12 * 10**9 // 16
        assert [mark.prompt == prompt_mark("later") for mark in stream.marks] == [n >= 5 for n in range(8)]
        assert stream.marks[0].prompt == prompt_mark("first")


async def test_a_clip_can_be_seen_as_well() -> None:
    async with town() as place:
        stream = await play(place, start=CLIP, include_start=True)
        assert [mark.block for mark in stream.marks] == list(range(8))
        assert [mark.prompt == GIVEN for mark in stream.marks] == [n < 5 for n in range(8)]
        assert [segment.media.first_frame for segment in stream.segments][:2] == [0, 9]
        (stage,) = place.stage.streams
        assert (stage.opening.start_block, stage.opening.num_blocks) == (5, 3)
        error = await refused(place, start=CLIP, include_start=True, num_blocks=5)
        assert (reason_of(error), fields_of(error)) == ("INVALID_ARGUMENT INVALID_FIELD", ["spec.num_blocks"])
        error = await refused(place, include_start=True)
        assert "include_start needs start" in str(error.details())


async def test_a_picture_is_the_first_of_a_model_that_was_made_for_it() -> None:
    stages = [FakeStage(image_start=common_pb2.IMAGE_START_FIRST_FRAME) for _ in range(2)]
    stages[1].faults = stages[0].faults
    stages[0].fail(0, SessionLost("the ranks died"))
    stages[0].fail(2, SessionLost("the ranks died"))
    async with town(stages=stages) as place:
        await play(place, start=common_pb2.StartFile(image=FIRST_FRAME))
        streams = [*stages[0].streams, *stages[1].streams]
        starts = {each.opening.start_block: each.opening.HasField("first_frame") for each in streams}
        assert starts == {0: True, 2: False}, "from block 1 on it is in the latents"
        assert len(streams) == 3
        assert all(each.opening.origin_block == 0 for each in place.decoder.streams)


@pytest.mark.parametrize("kind", ["stage", "decoder"])
@pytest.mark.parametrize("block", [3, 4])
@pytest.mark.parametrize("is_shown", [False, True])
async def test_what_dies_in_the_first_two_blocks_is_replaced(kind: str, block: int, is_shown: bool) -> None:
    """`block`: as stage and decoder count."""
    stages, decoders = [FakeStage(), FakeStage()], [FakeDecoder(), FakeDecoder()]
    group: list[Any] = stages if kind == "stage" else decoders
    clip = common_pb2.StartFile(video=b"ab!")
    for machine in group:
        machine.faults = group[0].faults
    group[0].fail(block, "die")
    async with town(stages=stages, decoders=decoders) as place:
        stream = await play(place, start=clip, include_start=is_shown)
        made = {mark.block: mark for mark in stream.marks}
        assert sorted(made) == list(range(0 if is_shown else 3, 8 if is_shown else 11))
        streams: list[Any] = [each for machine in group for each in machine.streams]
        assert len(streams) == 2
        sent = [mark for each in streams for mark in (each.context if kind == "stage" else each.warmup)]
        assert all(mark.prompt == GIVEN for mark in sent if mark.block < 3)
        assert all(made.get(mark.block, mark) == mark for mark in sent)


@pytest.mark.parametrize(
    "fault", [SessionLost("its worker died"), Draining("leaving"), grpc.StatusCode.UNKNOWN, "die"]
)
async def test_another_decoder_encodes_where_one_fails(fault: Fault) -> None:
    decoders = [FakeDecoder(), FakeDecoder()]
    decoders[1].faults = decoders[0].faults
    decoders[0].fail(ENCODE, fault)
    async with town(decoders=decoders) as place:
        await play(place, start=CLIP)
        assert [len(decoder.encoded) for decoder in decoders] == [1, 1]


async def test_the_only_decoder_is_asked_again() -> None:
    async with town() as place:
        place.decoder.fail(ENCODE, SessionLost("its worker died"))
        await play(place, start=PICTURE)
        assert len(place.decoder.encoded) == 2


async def test_a_file_that_nobody_can_open_is_the_callers_affair() -> None:
    decoders = [FakeDecoder(), FakeDecoder()]
    async with town(decoders=decoders) as place:
        error = await refused(place, start=common_pb2.StartFile(video=UNUSABLE))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields_of(error) == ["spec.start.video"]
        assert str(error.details()).startswith("spec.start.video: ")
        assert sum(len(decoder.encoded) for decoder in decoders) == 1, "another would say the same"
        listed = await place.anybody.call("ListSessions", pb.ListSessionsRequest())
        assert not listed.sessions


async def test_without_a_decoder_that_can_the_caller_may_come_again() -> None:
    decoders = [FakeDecoder()]
    async with town(decoders=decoders, encode_timeout_s=0.3) as place:
        decoders[0].faults[ENCODE] = [NotReady("starting")] * 3
        assert reason_of(await refused(place, start=PICTURE)) == "UNAVAILABLE NOT_READY"
        decoders[0].fail(ENCODE, "silent")
        assert reason_of(await refused(place, start=PICTURE)) == "UNAVAILABLE NOT_READY"
        decoders[0].faults[ENCODE] = [UnsupportedMedia("too large", field="width")] * 3
        assert reason_of(await refused(place, start=PICTURE)) == "INVALID_ARGUMENT UNSUPPORTED_MEDIA"


async def test_where_no_decoder_has_an_encoder_it_is_said_at_once() -> None:
    decoders = [FakeDecoder(), FakeDecoder()]
    for decoder in decoders:
        decoder.can_encode = False
    async with town(decoders=decoders, encode_timeout_s=3600) as place:
        error = await refused(place, start=PICTURE)
        assert (reason_of(error), fields_of(error)) == ("INVALID_ARGUMENT UNSUPPORTED_MEDIA", ["spec.start"])
        assert error.details() == (
            "no decoder of demo makes latents of pictures: those of kind taehv only decode"
        )
        await place.anybody.create()


async def test_one_that_had_an_encoder_is_waited_for_once_it_is_gone() -> None:
    """A pod of kind vae dies beside one of kind taehv, and is not listed until its successor comes."""
    decoders = [FakeDecoder(), FakeDecoder()]
    decoders[1].can_encode = False
    async with town(decoders=decoders, encode_timeout_s=0.5) as place:
        await place.anybody.create(start=PICTURE)
        decoders[0].can_encode = False
        decoders[0].set_state(common_pb2.SERVING_STATE_READY)  # reported at once
        peers = place.registry.shared.decoders.peers.values()
        await until(lambda: not any(peer.status and peer.status.can_encode for peer in peers))
        assert reason_of(await refused(place, start=PICTURE)) == "UNAVAILABLE NOT_READY"


async def test_one_that_still_starts_may_have_an_encoder() -> None:
    decoders = [FakeDecoder(), FakeDecoder()]
    for decoder in decoders:
        decoder.can_encode = False
    starting, ready = common_pb2.SERVING_STATE_STARTING, common_pb2.SERVING_STATE_READY
    async with town(decoders=decoders) as place:
        decoders[0].set_state(starting)
        peers = place.registry.shared.decoders.peers.values()
        await until(lambda: any(peer.status and peer.status.state == starting for peer in peers))
        waiting = asyncio.create_task(place.anybody.create(start=PICTURE))
        await asyncio.sleep(0.1)
        assert not waiting.done(), waiting.exception()
        decoders[0].can_encode = True
        decoders[0].set_state(ready)
        await waiting


async def test_a_repeat_is_known_by_its_file() -> None:
    async with town() as place:
        first = await place.anybody.create("one", start=CLIP)
        again = await place.anybody.create("one", start=CLIP)
        assert again.session.name == first.session.name
        assert len(place.decoder.encoded) == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await place.anybody.create("one", start=PICTURE)
        assert reason_of(caught.value) == "ALREADY_EXISTS REQUEST_ID_REUSED"


async def test_files_are_bounded_and_not_kept() -> None:
    mib = 2**20
    half = common_pb2.StartFile(video=b"abc" + bytes(5 * mib))
    async with town(tenants=("acme", "other"), start_bytes=8 * mib) as place:
        place.decoder.faults[ENCODE] = ["silent"]
        slow = asyncio.create_task(place.anybody.create(start=half))
        await until(lambda: place.decoder.encoded)
        assert reason_of(await refused(place, start=half)) == "RESOURCE_EXHAUSTED OVERLOADED"
        small = common_pb2.StartFile(video=b"ab")
        assert reason_of(await refused(place, start=small)) == "RESOURCE_EXHAUSTED OVERLOADED", "its share"
        await place.tenants["other"].create(start=small)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        await until(lambda: not place.decoder.faults[ENCODE])
        created = await place.anybody.create(start=half)
        session = created.session.name.removeprefix("sessions/")
        record = await place.registry.shared.journal.load(session)
        assert len(record.origin.specification) < 1000
        assert record.num_bytes < 10_000
        too_much = common_pb2.StartFile(video=bytes(8 * mib + 1))
        error = await refused(place, start=too_much)
        assert (reason_of(error), fields_of(error)) == (
            "INVALID_ARGUMENT INVALID_FIELD",
            ["spec.start.video"],
        )


async def test_latents_that_the_record_cannot_hold_are_refused() -> None:
    decoders = [FakeDecoder()]
    decoders[0].filler_bytes = 2**20
    async with town(decoders=decoders, session_bytes=2**20) as place:
        error = await refused(place, start=CLIP)
        assert (reason_of(error), fields_of(error)) == (
            "INVALID_ARGUMENT INVALID_FIELD",
            ["spec.start.video"],
        )
