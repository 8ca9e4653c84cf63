"""Decode as the contract has it: order, warm-up, bounds, epochs, refusals. One decoder serves them all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from cascade.v1 import common_pb2, decoder_pb2
from tests.services.common.test_errors import parts
from tests.services.support.decoder_support import (
    CLOSE,
    FRAMES,
    MEDIA,
    SIDE,
    WAIT_S,
    Request,
    Serving,
    Status,
    block,
    opening,
    reason,
    serving,
    tensor,
    whole,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
MAX_SESSIONS = 3
LOW = common_pb2.MediaProfile(id="low", bitrate_kbps=50)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def decoder() -> AsyncIterator[Serving]:
    async with serving(decoder={"max_sessions": MAX_SESSIONS}) as decoder:
        yield decoder


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def _healthy(decoder: Serving) -> AsyncIterator[None]:
    """Whatever a test does, no session is left and the worker is the same."""
    worker = decoder.worker
    yield
    status = await decoder.idle()
    assert (decoder.worker, status.num_restarts) == (worker, 0)


async def test_a_session_from_open_to_ended(decoder: Serving) -> None:
    call = decoder.call()
    await call.send(opening(profiles=[MEDIA, LOW], epoch=7))
    opened, inits = await call.opened(2)
    assert (opened.epoch, opened.max_pending_blocks) == (7, 4)
    assert [init.profile_id for init in inits] == ["high", "low"]
    assert inits[0].mime_type.startswith('video/mp4; codecs="avc1.')
    await call.send(*map(block, range(3)))
    for index in range(3):
        for profile in ("high", "low"):
            segment = await call.expect("segment")
            media = segment.media
            assert (media.block, media.profile_id) == (index, profile)
            first = max(0, 4 * FRAMES * index - 3)
            assert (media.first_frame, media.num_frames) == (first, 12 if index else 9)
            assert media.presentation_time.ToNanoseconds() == first * 10**9 // 16
            assert media.duration.ToNanoseconds() == media.num_frames * 10**9 // 16
            for part in (segment.decode_time, segment.encode_time):
                assert 0 < part.ToNanoseconds() < 60e9
            assert segment.queue_time.ToNanoseconds() >= 0
    await call.send(CLOSE)
    (ended,) = await call.rest()
    assert ended.ended.num_blocks == 3


@pytest.mark.parametrize("by", ["close", "half-close"])
async def test_what_is_pending_is_answered_before_the_end(decoder: Serving, by: str) -> None:
    call = decoder.call()
    await call.send(opening(session=by))
    await call.send(*map(block, range(4)))
    await (call.send(CLOSE) if by == "close" else call.half_close())
    kinds = [response.WhichOneof("message") for response in await call.rest()]
    assert kinds == ["opened", "media_init", *4 * ["segment"], "ended"]


async def test_a_session_of_no_blocks(decoder: Serving) -> None:
    call = decoder.call()
    await call.send(opening(session="empty", start_block=5))
    await call.half_close()
    *_, ended = await call.rest()
    assert ended.HasField("ended")
    assert ended.ended.num_blocks == 0


async def test_opened_comes_after_the_warm_up(decoder: Serving) -> None:
    call = decoder.call()
    await call.send(opening(session="warm", start_block=9, num_warmup_blocks=8))
    await call.send(*map(block, range(1, 8)))
    reading = asyncio.ensure_future(call.read())
    await decoder.until(lambda status: status.num_sessions == 1 and not status.num_pending_blocks)
    assert not reading.done()
    await call.send(block(8))
    assert (await asyncio.wait_for(reading, WAIT_S)).HasField("opened")
    await call.expect("media_init")
    media = await call.ask(9)
    assert (media.first_frame, media.num_frames) == (105, 12)
    await call.send(CLOSE)
    await call.rest()


async def test_any_start_gives_whole_blocks(decoder: Serving) -> None:
    _, segments = await whole(decoder.stub, [4, 5], session="cold")
    assert [(each.first_frame, each.num_frames) for each in segments] == [(45, 12), (57, 12)]


BAD = {
    "first message is a block": ([block(0)], "PROTOCOL_VIOLATION"),
    "first message is close": ([CLOSE], "PROTOCOL_VIOLATION"),
    "open twice": ([opening(), opening()], "PROTOCOL_VIOLATION"),
    "a gap": ([opening(), block(1)], "PROTOCOL_VIOLATION"),
    "a repeat": ([opening(), block(0), block(0)], "PROTOCOL_VIOLATION"),
    "a gap in the warm-up": (
        [opening(start_block=5, num_warmup_blocks=2), block(4)],
        "PROTOCOL_VIOLATION",
    ),
    "closed in the warm-up": (
        [opening(start_block=5, num_warmup_blocks=2), block(3), CLOSE],
        "PROTOCOL_VIOLATION",
    ),
    "a block after close": ([opening(), block(0), CLOSE, block(1)], "PROTOCOL_VIOLATION"),
    "too many pending": ([opening(), *map(block, range(5))], "PROTOCOL_VIOLATION"),
    "unknown model": ([opening(model="krea-14b")], "UNKNOWN_MODEL"),
    "size": ([opening(width=1024, height=1024)], "UNSUPPORTED_MEDIA"),
    "odd size": ([opening(width=97)], "INVALID_FIELD"),
    "no message": ([Request()], "INVALID_FIELD"),
    "no profile": ([opening(profiles=[])], "INVALID_FIELD"),
    "two profiles of one id": ([opening(profiles=[MEDIA, MEDIA])], "INVALID_FIELD"),
    "more warm-up than there is": ([opening(start_block=1, num_warmup_blocks=2)], "INVALID_FIELD"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_the_contract_forbids(decoder: Serving, case: str) -> None:
    requests, expected = BAD[case]
    call = decoder.call()
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it may end before all was sent
        await call.send(*requests)
    assert await call.fails() == expected


async def test_half_close_in_the_warm_up(decoder: Serving) -> None:
    call = decoder.call()
    await call.send(opening(session="h", start_block=3, num_warmup_blocks=1))
    await call.half_close()
    assert await call.fails() == "PROTOCOL_VIOLATION"
    call = decoder.call()
    await call.half_close()
    assert await call.fails() == "PROTOCOL_VIOLATION"


def changed(**fields: Any) -> Request:
    request = block(0)
    for name, value in fields.items():
        if name == "shape":
            request.block.latents.shape[:] = value
        else:
            setattr(request.block.latents, name, value)
    return request


NOT_FINITE = np.full((3, 16, 12, 12), np.nan, np.float32)
WRONG = {
    "shape": (changed(shape=[3, 16, 12, 6]), "block.latents.shape"),
    "frames": (block(0, np.zeros((2, 16, 12, 12), np.float32)), "block.latents.shape"),
    "bytes": (changed(data=b"1234"), "block.latents.data"),
    "dtype": (changed(dtype=99), "block.latents.dtype"),
    "rank": (changed(shape=[3, 16, 144]), "block.latents.shape"),
    "nan": (block(0, NOT_FINITE), "block.latents.data"),
    "infinite bfloat16": (block(0, np.full_like(NOT_FINITE, np.inf), bfloat16=True), "block.latents.data"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_latents_name_the_field(decoder: Serving, case: str) -> None:
    request, field = WRONG[case]
    call = decoder.call()
    await call.send(opening(), request)
    error = await call.error()
    assert reason(error) == "INVALID_FIELD"
    assert parts(error)["BadRequest"].field_violations[0].field == field


async def test_nvenc_is_refused_where_there_is_none(decoder: Serving) -> None:
    status = await decoder.ready()
    if common_pb2.VIDEO_ENCODER_NVENC in status.encoders:
        pytest.skip("this machine has NVENC")
    hardware = common_pb2.MediaProfile(id="gpu", encoder=common_pb2.VIDEO_ENCODER_NVENC)
    call = decoder.call()
    await call.send(opening(profiles=[MEDIA, hardware], session="nvenc"))
    error = await call.error()
    assert reason(error) == "UNSUPPORTED_MEDIA"
    assert parts(error)["BadRequest"].field_violations[0].field == "open.profiles[1].encoder"
    call = decoder.call()
    await call.send(opening(session="nvenc"))
    await call.opened()  # the refused stream did not use up its epoch
    call.stream.cancel()


async def test_an_encoder_that_fails_ends_only_its_session(decoder: Serving) -> None:
    other = decoder.call()
    await other.send(opening(session="other"))
    await other.opened()
    last = 2**31 - 1  # beyond what an MP4 fragment can be numbered
    call = decoder.call()
    await call.send(opening(session="last", start_block=last), block(last))
    assert await call.fails() == "SESSION_LOST"
    await other.ask(0)
    await other.send(CLOSE)
    await other.rest()


async def test_the_newer_epoch_takes_over(decoder: Serving) -> None:
    old, new = decoder.call(), decoder.call()
    await old.send(opening(session="e", epoch=3))
    await old.opened()
    await new.send(opening(session="e", epoch=5))
    error = await old.error()
    assert (reason(error), parts(error)["ErrorInfo"].metadata["epoch"]) == ("FENCED", "5")
    await new.opened()
    for epoch in (4, 5):
        late = decoder.call()
        await late.send(opening(session="e", epoch=epoch))
        assert await late.fails() == "FENCED"
    await new.ask(0)
    await new.send(CLOSE)
    await new.rest()
    again = decoder.call()
    await again.send(opening(session="e", epoch=5))
    assert await again.fails() == "FENCED", "remembered after the last stream"


async def test_places_are_counted_and_cancelling_frees_one_at_once(decoder: Serving) -> None:
    calls = [decoder.call() for _ in range(MAX_SESSIONS)]
    for number, call in enumerate(calls):
        await call.send(opening(session=f"full{number}"))
        await call.opened()
    status = await decoder.until(lambda status: status.num_sessions == MAX_SESSIONS)
    assert status.max_sessions == MAX_SESSIONS
    extra = decoder.call()
    await extra.send(opening(session="extra"))
    error = await extra.error()
    assert reason(error) == "OUT_OF_CAPACITY"
    assert "RetryInfo" in parts(error)
    same = decoder.call()
    await same.send(opening(session="full0", epoch=2))
    await same.opened()  # a takeover needs no place of its own
    await calls[1].send(*map(block, range(4)))
    calls[1].stream.cancel()
    await decoder.until(lambda status: status.num_sessions == MAX_SESSIONS - 1)
    extra = decoder.call()
    await extra.send(opening(session="extra"))
    await extra.opened()  # refused for want of room, its epoch is still good
    for call in (same, calls[2], extra):
        call.stream.cancel()


async def test_a_stream_that_is_left_between_two_answers_ends_at_once(decoder: Serving) -> None:
    """As where its client goes while an answer is written: nobody reads for it any more, and the next session
    has its place."""

    async def requests() -> AsyncIterator[Request]:
        yield opening()
        await asyncio.Event().wait()

    servicer = decoder.decoder.servicer
    streams = [servicer.Decode(requests(), None) for _ in range(MAX_SESSIONS)]
    for stream in streams:
        assert (await anext(stream)).HasField("opened")
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "decode-requests"]
    assert len((await whole(decoder.stub, [0]))[1]) == 1


async def test_a_large_session_takes_more_places(decoder: Serving) -> None:
    large = decoder.call()
    await large.send(opening(session="large", width=2 * SIDE, height=SIDE + 48))
    await large.opened()
    small = decoder.call()
    await small.send(opening(session="small"))
    assert await small.fails() == "OUT_OF_CAPACITY"
    latents = np.zeros((3, 16, 18, 24), np.float32)
    await large.send(Request(block=common_pb2.LatentBlock(index=0, latents=tensor(latents))))
    assert (await large.expect("segment")).media.num_frames == 9
    large.stream.cancel()


async def test_the_first_message_may_not_be_late(decoder: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.streams.MESSAGE_DEADLINE_S", 0.2)
    call = decoder.call()
    error = await call.error()
    assert (reason(error), error.code()) == ("FIRST_MESSAGE_LATE", grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_client_that_does_not_read_holds_no_more_than_its_bound(decoder: Serving) -> None:
    lazy, other = decoder.call(), decoder.call()
    await lazy.send(opening(session="lazy"))
    await lazy.send(*map(block, range(4)))
    await other.send(opening(session="busy"))
    await other.opened()
    for index in range(6):
        await other.ask(index)
    await decoder.until(lambda status: status.num_sessions == 2 and not status.num_pending_blocks)
    await other.send(CLOSE)
    await other.rest()
    await lazy.send(CLOSE)
    kinds = [response.WhichOneof("message") for response in await lazy.rest()]
    assert kinds == ["opened", "media_init", *4 * ["segment"], "ended"]


async def test_a_client_that_never_reads_is_stopped_at_its_bound(decoder: Serving) -> None:
    """What the connection does not take stays unanswered, so a client that goes on breaks its bound."""
    side = 2 * SIDE
    noise = np.random.default_rng(0).normal(size=(3, 16, side // 8, side // 8)).astype(np.float32) * 3
    rich = [common_pb2.MediaProfile(id=str(n), bitrate_kbps=100_000) for n in range(4)]
    call = decoder.call()
    await call.send(opening(width=side, height=SIDE + 48, profiles=rich, fps=1.0))
    num_sent, num_before = 0, decoder.sample("cascade_decoder_blocks_total")

    def is_done(status: Status) -> bool:
        """What was sent is made, or the session is over."""
        num_made = decoder.sample("cascade_decoder_blocks_total") - num_before
        return num_made == num_sent or not status.num_sessions

    await decoder.until(lambda status: status.num_sessions == 1)
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while num_sent < 100:
            await call.send(block(num_sent, noise[:, :, :18]))
            num_sent += 1
            if not (await decoder.until(is_done)).num_sessions:
                break
    assert 4 < num_sent < 100
    extra = decoder.call()
    await extra.send(opening())
    await extra.opened()  # its places are free although it still does not read
    assert await call.fails() == "PROTOCOL_VIOLATION"
    extra.stream.cancel()


async def test_fairness_between_long_and_short_lines(decoder: Serving) -> None:
    """Warm-ups of twenty blocks in two sessions do not hold back a third with single blocks."""
    short = decoder.call()
    await short.send(opening(session="short"))
    await short.opened()
    long = [decoder.call() for _ in range(2)]
    done: list[str] = []

    async def warm(call: Any, name: str) -> None:
        await call.send(opening(session=name, start_block=20, num_warmup_blocks=20))
        await call.send(*map(block, range(20)))
        await call.opened()
        done.append(name)

    async def ask() -> None:
        for index in range(3):
            await short.ask(index)
        done.append("short")

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        for number, call in enumerate(long):
            tasks.create_task(warm(call, f"long{number}"))
        await decoder.until(lambda status: status.num_pending_blocks > 4)
        tasks.create_task(ask())
    assert done[0] == "short"
    for call in (*long, short):
        call.stream.cancel()


async def test_watching_tells_what_is_here(decoder: Serving) -> None:
    status = await decoder.ready()
    assert status.server.instance_id
    assert status.server.version
    assert status.server.start_time.seconds
    assert list(status.models) == ["demo"]
    assert list(status.codecs) == [common_pb2.VIDEO_CODEC_H264]
    assert common_pb2.VIDEO_ENCODER_SOFTWARE in status.encoders
    assert status.warmup_blocks == 2
    assert not status.HasField("drain")
    assert status.last_block_time.ToNanoseconds() > 0
    bad = decoder_pb2.DecoderServiceWatchStatusRequest(interval={"nanos": 1})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await decoder.stub.WatchStatus(bad, timeout=30).read()
    assert reason(caught.value) == "INVALID_FIELD"


async def test_everything_is_counted(decoder: Serving) -> None:
    blocks = decoder.sample("cascade_decoder_blocks_total")
    media = decoder.sample("cascade_decoder_media_bytes_total")
    encodings = decoder.sample("cascade_decoder_encode_seconds_count")
    _, segments = await whole(
        decoder.stub, [2, 3], session="counted", num_warmup_blocks=1, profiles=[MEDIA, LOW]
    )
    assert decoder.sample("cascade_decoder_blocks_total") == blocks + 2
    assert decoder.sample("cascade_decoder_warmup_blocks_total") > 0
    sent = sum(len(segment.data) for segment in segments)
    assert decoder.sample("cascade_decoder_media_bytes_total") == media + sent
    assert decoder.sample("cascade_decoder_encode_seconds_count") == encodings + 4
    assert decoder.sample("cascade_decoder_latent_bytes_total") > 0
    await decoder.idle()
    assert decoder.sample("cascade_decoder_sessions") == 0
    assert decoder.sample("cascade_decoder_pending_blocks") == 0
