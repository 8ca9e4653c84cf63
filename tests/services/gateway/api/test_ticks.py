"""`block_made`: for those who ask, before the block's segment, and worth no loss of anything else."""

from typing import Any

import grpc

from cascade.v1 import stage_pb2
from cascade_client import events
from services.gateway.peers.endpoints import Pod
from services.gateway.peers.peer import Peer
from services.gateway.session.attachment import MAX_EVENTS, MAX_MADE, Attachment, Response
from services.gateway.session.block_made import block_made
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import VIEWER, AttachedStream, town, until
from tests.services.support.redis_support import RedisServer, needs_redis
from tests.services.support.two_gateways import pair

NUM_PASSES = 4


def made(block: int) -> Response:
    return Response(block_made={"block": block})


async def drain(attachment: Attachment) -> list[Any]:
    """All that is queued: numbers of segments, of blocks as text, kinds of the other events."""
    attachment.close(None)
    found: list[Any] = []
    while (item := await attachment.take()) is not None:
        if isinstance(item, Response):
            kind = str(item.WhichOneof("message"))
            found.append(f"made {item.block_made.block}" if kind == "block_made" else kind)
        else:
            found.append(item)
    return found


def check_told(stream: AttachedStream, stage: FakeStage) -> None:
    """Of every block that came as a segment, once and before it, with the ticks of the stage."""
    told = stream.all("block_made")
    blocks = [item.block for item in told]
    assert blocks == list(range(len(blocks)))
    assert len(stream.segments) <= len(blocks)
    for segment in stream.segments:
        block = segment.media.block
        assert stream.position("block_made", lambda item, block=block: item.block == block) < stream.position(  # type: ignore[misc]
            "segment",
            lambda item, block=block: item.media.block == block,  # type: ignore[misc]
        )
    for item in told:
        assert (item.epoch, item.num_ranks, item.num_passes) == (1, 1, NUM_PASSES)
        assert item.stage == stage.address
        assert item.latency.ToMilliseconds() == 1
        assert [tick.index for tick in item.ticks] == list(
            range(item.block * NUM_PASSES, (item.block + 1) * NUM_PASSES)
        )
        assert [(each.block, each.pass_index, each.rank) for tick in item.ticks for each in tick.passes] == [
            (item.block, number, 0) for number in range(NUM_PASSES)
        ]


async def test_only_those_who_ask_are_told_how_blocks_were_made() -> None:
    async with town() as place:
        name = await place.anybody.name(num_blocks=12)
        async with (
            place.anybody.attached(name, role=VIEWER) as plain,
            place.anybody.attached(name, role=VIEWER, with_ticks=True) as curious,
        ):
            (live,) = place.registry.sessions
            await until(lambda: live.num_viewers == 2)
            async with place.anybody.attached(name) as stream:
                await stream.until_over()
                await plain.until_over()
                await curious.until_over()
        assert not stream.all("block_made")
        assert not plain.all("block_made")
        assert 0 < len(curious.all("block_made")) <= 12
        assert stream.sequences == list(range(1, 13))
        for viewer in (plain, curious):  # from the live edge on, where that was when they came
            assert viewer.sequences == list(range(viewer.sequences[0], 13))


async def test_a_controller_that_asks_hears_of_each_block_before_its_segment() -> None:
    async with town(stages=[FakeStage(block_s=0.02, open_s=0.2)]) as place:
        name = await place.anybody.name(num_blocks=10)
        async with place.anybody.attached(name, with_ticks=True) as stream:
            await stream.until_over()
        check_told(stream, place.stage)
        assert len(stream.all("block_made")) == 10
        async with place.anybody.attached(name, with_ticks=True, acks=False) as again:
            await again.until_over()
        assert again.sequences == list(range(1, 11))
        assert not again.all("block_made"), "it is no part of what is kept"


@needs_redis
async def test_a_gateway_that_does_not_have_the_session_passes_them_on(redis: RedisServer) -> None:
    async with pair(redis) as both:
        name = await both.first.acme.name(num_blocks=None)
        async with both.second.acme.attached(name, with_ticks=True) as stream:
            await stream.until(lambda: len(stream.all("block_made")) >= 6)
        assert both.first.registry.sessions
        assert not both.second.registry.sessions
        told = stream.all("block_made")
        assert {item.stage for item in told} == {both.stage.address}
        ticks = [tick.index for item in told for tick in item.ticks]
        assert ticks == list(range(ticks[0], ticks[0] + NUM_PASSES * len(told)))


async def test_a_client_that_does_not_read_keeps_the_newest_few() -> None:
    for is_controller in (True, False):
        slow = Attachment(is_controller, with_ticks=True)
        for block in range(2 * MAX_EVENTS):
            slow.put_made(made(block))
        slow.put_segment(1)
        slow.put(Response(queue_changed={"position": 1}))
        newest = range(2 * MAX_EVENTS - MAX_MADE, 2 * MAX_EVENTS)
        assert await drain(slow) == [*(f"made {block}" for block in newest), 1, "queue_changed"]


async def test_they_take_nothing_else_the_place() -> None:
    full = Attachment(is_controller=True, with_ticks=True)
    for _ in range(MAX_EVENTS):
        full.put(Response(queue_changed={"position": 1}))
    full.put_made(made(0))
    assert await drain(full) == ["queue_changed"] * MAX_EVENTS
    plain = Attachment(is_controller=True)
    plain.put_made(made(0))
    assert await drain(plain) == []


async def test_a_viewer_that_skips_keeps_the_order() -> None:
    viewer = Attachment(is_controller=False, with_ticks=True, max_behind=2)
    for block in range(8):
        viewer.put_made(made(block))
        viewer.put_segment(block + 1)
    items = await drain(viewer)
    assert "skipped" in items
    assert [item for item in items if str(item).startswith("made")] == [f"made {b}" for b in range(4, 8)]
    assert items[-1] == 8


async def test_a_stage_is_named_by_its_pod() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        peer: Peer[stage_pb2.StageStatus] = Peer("10.0.0.7:50061", channel, Pod("cascade-stage-7", "u7"))
        block = stage_pb2.GenerateResponse.Block(block={"index": 4})
        assert block_made(block, 2, peer) is None, "nothing is known of it now"
        peer.report(stage_pb2.StageStatus(world_size=5, model={"num_passes": 5}))
        told = block_made(block, 2, peer)
        assert told
        message = told.block_made
        assert (message.stage, message.block, message.epoch) == ("cascade-stage-7", 4, 2)
        assert (message.num_ranks, message.num_passes) == (5, 5)


def test_the_sdk_passes_over_what_it_does_not_know() -> None:
    assert events.notice(made(3)) is None


async def test_a_viewer_that_does_not_read_keeps_what_its_picture_needs() -> None:
    """Events of no use any more give way; of many that are needed the newest stay."""
    viewer = Attachment(is_controller=False)
    viewer.put(Response(media_init={"profile_id": "default", "data": b"first"}))
    for _ in range(MAX_EVENTS):
        viewer.put(Response(queue_changed={}))
    viewer.put(Response(media_init={"profile_id": "default", "data": b"second"}))
    viewer.put_segment(7)
    viewer.put(Response(ended={}))
    assert len(viewer._queue) <= MAX_EVENTS + 1
    viewer.close()
    found = []
    while (item := await viewer.take()) is not None:
        found.append(item)
    inits = [
        item.media_init.data for item in found if not isinstance(item, int) and item.HasField("media_init")
    ]
    assert inits == [b"first", b"second"]
    assert found[-2] == 7
    assert found[-1].HasField("ended")  # type: ignore[union-attr]


async def test_a_viewer_that_reads_nothing_for_long_misses_no_segment_in_silence() -> None:
    viewer = Attachment(is_controller=False)
    viewer.put_segment(7)
    for number in range(2 * MAX_EVENTS):
        viewer.put(Response(media_init={"profile_id": "default", "data": b"%d" % number}))
    assert len(viewer._queue) == MAX_EVENTS
    assert await viewer.take() == 7
    assert (await viewer.take()).media_init.data == b"%d" % (MAX_EVENTS + 1)  # type: ignore[union-attr]
