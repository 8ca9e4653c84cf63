"""What comes out is video: valid, continuous, the same again, and close to undisturbed after a warm-up."""

import math
from collections.abc import AsyncIterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from cascade.v1 import common_pb2
from cascade_core.config import find_card
from services.decoder.messages import DecodeBlock, SessionRefused
from services.decoder.pictures import PictureDecoder
from services.decoder.segments import SegmentEncoder
from services.decoder.settings import DecoderSettings
from services.decoder.video_settings import VideoSettings
from services.decoder.worker import BlockWork
from tests.services.support.decoder_support import (
    CLOSE,
    MEDIA,
    NUM_BLOCKS,
    Serving,
    block,
    demo_latents,
    opening,
    serving,
    whole,
)
from tests.services.support.media_support import assert_gapless, decode, ffprobe, fragment, needs_ffprobe

shared = pytest.mark.asyncio(loop_scope="module")
RICH = common_pb2.MediaProfile(id="rich", bitrate_kbps=1000)
INVISIBLE_DB = 50.0
Segments = Sequence[common_pb2.MediaSegment]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def decoder() -> AsyncIterator[Serving]:
    """For all tests; nothing that an earlier session did may show."""
    async with serving() as decoder:
        yield decoder


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """In dB, over all pictures."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def of(profile: str, segments: Segments) -> list[common_pb2.MediaSegment]:
    return [segment for segment in segments if segment.profile_id == profile]


def joined(init: common_pb2.MediaInit, segments: Segments) -> bytes:
    return init.data + b"".join(segment.data for segment in segments)


@shared
async def test_every_profile_is_one_valid_video_from_any_segment(decoder: Serving) -> None:
    inits, segments = await whole(decoder.stub, range(NUM_BLOCKS), demo_latents(), profiles=[MEDIA, RICH])
    for init in inits:
        mine = of(init.profile_id, segments)
        frames = [segment.num_frames for segment in mine]
        assert frames == [9] + [12] * (NUM_BLOCKS - 1)
        data = [segment.data for segment in mine]
        assert_gapless(init.data, data, frames, Fraction(16))
        assert_gapless(init.data, data[5:], frames[5:], Fraction(16))
        for segment in mine:
            told = segment.presentation_time.ToNanoseconds() * 90_000 // 10**9
            assert fragment(segment.data).decode_ticks == told
    plain, rich = (joined(init, of(init.profile_id, segments)) for init in inits)
    assert len(rich) > 1.5 * len(plain), "the bitrate has no effect"
    assert psnr(decode(plain), decode(rich)) > 30, "two profiles show different pictures"


@shared
@needs_ffprobe
async def test_ffprobe_agrees(decoder: Serving, tmp_path: Path) -> None:
    (init,), segments = await whole(decoder.stub, range(4), fps=30000 / 1001)
    path = tmp_path / "video.mp4"
    path.write_bytes(joined(init, segments))
    report = ffprobe(path)
    (stream,) = report["streams"]
    assert (stream["codec_name"], stream["nb_read_frames"]) == ("h264", "45")
    assert stream["avg_frame_rate"] == "30000/1001"
    assert [packet["pts"] for packet in report["packets"]] == [3003 * number for number in range(45)]


@shared
@pytest.mark.slow
async def test_each_session_has_its_own_fps_and_equal_latents_give_equal_bytes(
    decoder: Serving,
) -> None:
    """In another worker process, whatever else it did before."""
    first = await whole(decoder.stub, range(4))
    other = await whole(decoder.stub, range(4), fps=24.0)
    warm = await whole(decoder.stub, [3], num_warmup_blocks=3)
    assert warm[1][0].data == first[1][3].data, "a warm-up from block 0 leaves no trace"
    assert warm[0] == first[0]
    assert other[1][1].presentation_time.ToNanoseconds() == 9 * 10**9 // 24
    assert_gapless(other[0][0].data, [each.data for each in other[1]], [9, 12, 12, 12], Fraction(24))
    async with serving() as another:
        await whole(another.stub, [7, 8], fps=12.0)
        again = await whole(another.stub, range(4))
    assert again == first


@shared
async def test_parts_come_before_their_segment_and_are_its_bytes(decoder: Serving) -> None:
    low = common_pb2.MediaProfile(id="low", codec=MEDIA.codec, bitrate_kbps=100)
    profiles = [MEDIA, low]
    inits, expected = await whole(decoder.stub, range(3), profiles=profiles)
    call = decoder.call()
    await call.send(opening(profiles=profiles, with_parts=True), block(0), block(1))
    await call.opened(2)
    for index in range(3):
        parts = [await call.expect("part") for _ in range(6)]
        assert [(part.index, part.media.profile_id) for part in parts] == [
            (number, profile.id) for number in range(3) for profile in profiles
        ]
        for number, init in enumerate(inits):
            segment = (await call.expect("segment")).media
            assert segment == expected[2 * index + number]
            mine = [part.media for part in parts[number::2]]
            assert b"".join(part.data for part in mine) == segment.data
            assert [part.num_frames for part in mine] == ([4, 4, 4] if index else [1, 4, 4])
            assert [part.first_frame for part in mine] == [
                segment.first_frame + sum(part.num_frames for part in mine[:before]) for before in range(3)
            ]
            assert mine[1].presentation_time.ToNanoseconds() == mine[1].first_frame * 10**9 // 16
            assert len(decode(init.data + mine[0].data)) == mine[0].num_frames
        if index < 1:
            await call.send(block(2))
    await call.send(CLOSE)
    await call.rest()


@shared
async def test_a_video_that_goes_on_from_a_clip_counts_from_what_comes_after_it(decoder: Serving) -> None:
    _, shown = await whole(decoder.stub, range(4), profiles=[MEDIA])
    (init,), hidden = await whole(decoder.stub, [2, 3], num_warmup_blocks=2, origin_block=2)
    _, resumed = await whole(decoder.stub, [3], num_warmup_blocks=3, origin_block=2)
    assert [(each.block, each.first_frame, each.num_frames) for each in hidden] == [(0, 0, 12), (1, 12, 12)]
    assert [each.presentation_time.ToNanoseconds() for each in hidden] == [0, 12 * 10**9 // 16]
    assert_gapless(init.data, [each.data for each in hidden], [12, 12], Fraction(16))
    assert resumed[0].data == hidden[1].data, "after a loss the same"
    pictures = decode(joined(init, hidden))
    assert psnr(pictures, decode(joined(init, shown))[-24:]) == math.inf


@shared
async def test_bfloat16_gives_the_picture_too(decoder: Serving) -> None:
    (init,), exact = await whole(decoder.stub, range(3), demo_latents())
    _, rounded = await whole(decoder.stub, range(3), demo_latents(), bfloat16=True)
    assert psnr(decode(joined(init, rounded)), decode(joined(init, exact))) > 35
    assert rounded != exact


@pytest.mark.slow
async def test_taehv_decodes_too() -> None:
    async with serving(decoder={"kind": "taehv", "weights": "random"}) as decoder:
        (init,), segments = await whole(decoder.stub, [5, 6])
    assert_gapless(init.data, [each.data for each in segments], [12, 12], Fraction(16))


def test_a_segment_that_no_message_holds_is_refused() -> None:
    settings = VideoSettings(width=1024, height=1024, crf=1, preset="ultrafast")
    noise = np.random.default_rng(0).integers(0, 256, (9, 1024, 1024, 3), dtype=np.uint8)
    block = DecodeBlock(7, 0, "float32", (3, 16, 128, 128), b"", False, 0.0)
    work = BlockWork(block, [SegmentEncoder(settings)], 0.0)
    for pictures in np.split(noise, 3):
        work.add(pictures)
    answer = work.encode(lambda _: None)
    assert isinstance(answer, SessionRefused)
    assert (answer.session, answer.field) == (7, "open.profiles[0].bitrate_kbps")


def job(index: int) -> DecodeBlock:
    latents = demo_latents()[index]
    return DecodeBlock(0, index, "float32", latents.shape, latents.tobytes(), False, 0.0)


def decoded(decoder: PictureDecoder, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    state = decoder.open()
    return [np.concatenate([*(decoder.decode(state, job(index)) or ())]) for index in indices]


def test_after_the_warm_up_no_difference_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """The default of `warmup_blocks` is enough wherever one opens, and none at all is not."""
    settings = DecoderSettings(device="cpu", threads=1)
    decoder = PictureDecoder(find_card("demo"), settings)
    undisturbed = decoded(decoder, range(NUM_BLOCKS))
    worst: dict[int, float] = {}
    for num_warmup in range(5):
        starts = range(num_warmup + 1, NUM_BLOCKS)
        pictures = {start: decoded(decoder, range(start - num_warmup, start + 1))[-1] for start in starts}
        worst[num_warmup] = min(psnr(pictures[start], undisturbed[start]) for start in starts)
    with capsys.disabled():
        print("\nwarm-up blocks, worst first block in dB PSNR:", {k: round(v, 1) for k, v in worst.items()})
    assert worst[0] < INVISIBLE_DB <= worst[settings.num_warmup_blocks(find_card("demo"))]
