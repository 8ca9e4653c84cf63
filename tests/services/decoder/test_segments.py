"""Segments of the decoder, checked as a player meets them: PyAV and, where installed, ffprobe."""

import gc
from collections.abc import Mapping, Sequence
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cascade_core.config import make
from cascade_core.errors import CascadeError, InvalidConfig
from services.decoder import segments
from services.decoder.segments import TIMESCALE, SegmentEncoder, ticks
from services.decoder.video_settings import VideoSettings
from tests.services.support.media_support import (
    assert_gapless,
    boxes,
    decode,
    encoded,
    ffprobe,
    fragment,
    needs_ffprobe,
    samples,
)

WIDTH, HEIGHT = 64, 48
RATES = [Fraction(16), Fraction(125, 8), Fraction(24000, 1001), Fraction(73, 10)]
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255), (0, 0, 0), (200, 30, 40)]


def encoder(**values: Any) -> SegmentEncoder:
    return SegmentEncoder(make(VideoSettings, {"width": WIDTH, "height": HEIGHT} | values))


def num_frames(block: int) -> int:
    """As the Wan VAE's: the very first latent frame gives one picture, not four."""
    return 12 if block else 9


def first_frame(block: int) -> int:
    return 12 * block - 3 if block else 0


def moving(block: int) -> NDArray[np.uint8]:
    """Frames of one block: a bright column that moves over a noisy ground."""
    count = num_frames(block)
    frames = np.random.default_rng(block).integers(60, 90, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for frame in range(count):
        frames[frame, :, (first_frame(block) + frame) % WIDTH] = 250
    return frames


def encode(one: SegmentEncoder, block: int) -> bytes:
    """A segment: all parts of it."""
    parts = encoded(one, moving(block), index=block, first_frame=first_frame(block))
    return b"".join(part.data for part in parts)


def encode_blocks(one: SegmentEncoder, blocks: Sequence[int]) -> list[bytes]:
    return [encode(one, block) for block in blocks]


def live_containers() -> int:
    gc.collect()
    return sum(type(thing) is OutputContainer for thing in gc.get_objects())


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("values", [{}, {"bitrate": 200_000}, {"threads": 3}], ids=str)
def test_segments_are_one_video(fps: Fraction, values: Mapping[str, Any]) -> None:
    one = encoder(fps=fps, **values)
    media = encode_blocks(one, range(5))
    assert_gapless(one.init_segment, media, [num_frames(block) for block in range(5)], fps)


@pytest.mark.parametrize("fps", RATES)
def test_plays_from_any_segment(fps: Fraction) -> None:
    one = encoder(fps=fps)
    media = encode_blocks(one, range(4))
    whole = decode(one.init_segment + b"".join(media))
    for block in range(1, 4):
        rest = media[block:]
        assert_gapless(one.init_segment, rest, [12] * len(rest), fps)
        played = one.init_segment + b"".join(rest)
        assert samples(played)[0].pts == ticks(first_frame(block), fps)
        np.testing.assert_array_equal(decode(played), whole[first_frame(block) :])


@pytest.mark.parametrize("values", [{}, {"bitrate": 200_000}, {"threads": 3}, {"fps": 15.625}], ids=str)
def test_another_encoder_makes_the_same_bytes(values: Mapping[str, Any]) -> None:
    uninterrupted = encoder(**values)
    expected = encode_blocks(uninterrupted, range(6))
    resumed = encoder(**values)
    assert resumed.init_segment == uninterrupted.init_segment
    assert encode_blocks(resumed, range(3, 6)) == expected[3:]
    assert encode_blocks(resumed, [1]) == expected[1:2]


@pytest.mark.parametrize("values", [{}, {"bitrate": 200_000}], ids=str)
@pytest.mark.parametrize("units", ["0", "MMX2,SSE2"], ids=["none", "sse2"])
def test_another_processor_makes_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, values: Mapping[str, Any], units: str
) -> None:
    """x264 told to use fewer vector units than this processor has."""
    expected = encode(encoder(**values), 1)
    options = VideoSettings.encoder_options

    def older_processor(settings: VideoSettings) -> dict[str, str]:
        given = options(settings)
        return given | {"x264-params": f"{given['x264-params']}:asm={units}"}

    monkeypatch.setattr(VideoSettings, "encoder_options", older_processor)
    assert encode(encoder(**values), 1) == expected


def test_parts_are_pictures_of_a_latent_frame_each() -> None:
    """A player that is fed part by part shows each at once: none waits for what follows."""
    one = encoder()
    for block in (0, 1, 7):
        parts = encoded(one, moving(block), index=block, first_frame=first_frame(block))
        assert [part.num_frames for part in parts] == ([4, 4, 4] if block else [1, 4, 4])
        video, frame = one.init_segment, first_frame(block)
        for part in parts:
            assert (part.first_frame, fragment(part.data).decode_ticks) == (frame, ticks(frame, Fraction(16)))
            assert fragment(part.data).sequence_number == frame + 1
            frame += part.num_frames
            video += part.data
            assert len(decode(video)) == frame - first_frame(block)
        np.testing.assert_array_equal(decode(video), decode(one.init_segment + encode(one, block)))


@pytest.mark.parametrize("fps", [*RATES, Fraction(30000, 1001), Fraction(240)])
def test_times_do_not_drift(fps: Fraction) -> None:
    for block in range(10_000):
        start = ticks(first_frame(block), fps)
        assert 0 <= first_frame(block) / fps * TIMESCALE - start < 1


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("block", [9_999, 100_000])
def test_late_blocks_are_where_they_belong(fps: Fraction, block: int) -> None:
    """Block 100,000 is a day into the video, past the 2**32 ticks that a 32-bit decode time can hold."""
    one = encoder(fps=fps)
    media = encode_blocks(one, [block, block + 1])
    assert_gapless(one.init_segment, media, [12, 12], fps)
    assert fragment(media[0]).decode_ticks == int(first_frame(block) / fps * TIMESCALE)
    assert samples(one.init_segment + media[0])[0].pts == int(first_frame(block) / fps * TIMESCALE)


def test_init_segment_has_no_media_and_no_version() -> None:
    init = encoder().init_segment
    assert [path[0] for path, _ in boxes(init) if len(path) == 1] == [b"ftyp", b"moov"]
    assert b"Lavf" not in init
    (media_header,) = (payload for path, payload in boxes(init) if path[-1] == b"mdhd")
    assert int.from_bytes(media_header[12:16], "big") == TIMESCALE


@pytest.mark.parametrize(
    ("width", "height", "codecs"),
    [(96, 96, "avc1.64000a"), (832, 480, "avc1.64001e"), (1920, 1088, "avc1.640028")],
)
def test_mime_type_names_profile_and_level(width: int, height: int, codecs: str) -> None:
    one = encoder(width=width, height=height)
    assert one.mime_type == f'video/mp4; codecs="{codecs}"'


@pytest.mark.parametrize("size", [64, 832])
def test_colours_are_those_of_the_frames(size: int) -> None:
    """Both sides of where players guess BT.601 or BT.709 from the size; every colour alone, then decoded."""
    one = encoder(width=size, height=size)
    for colour in COLOURS:
        frames = np.broadcast_to(np.array(colour, np.uint8), (2, size, size, 3)).copy()
        (part,) = encoded(one, frames, index=0, first_frame=0)
        video = one.init_segment + part.data
        means = decode(video).mean(axis=(1, 2))
        np.testing.assert_allclose(means, np.broadcast_to(colour, (2, 3)), atol=4)
        with av.open(BytesIO(video)) as container:
            codec = container.streams.video[0].codec_context
            tags = (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range)
        assert tags == (1, 1, 1, 1)  # BT.709 three times, limited range (ITU-T H.273)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"width": 65}, r"width: .*multiple of 2"),
        ({"height": 47}, r"height: .*multiple of 2"),
        ({"width": 0}, r"width: .*greater than or equal to 16"),
        ({"fps": 0}, r"fps: .*greater than or equal to 1"),
        ({"fps": 241}, r"fps: .*less than or equal to 240"),
        ({"fps": float("nan")}, r"fps: "),
        ({"crf": 0}, r"crf: .*greater than or equal to 1"),
        ({"crf": 52}, r"crf: .*less than or equal to 51"),
        ({"bitrate": 10}, r"bitrate: .*greater than or equal to 50000"),
        ({"codec": "vp9"}, r"codec: .*'h264' or 'h264_nvenc'"),
        ({"preset": "placebo"}, r"preset: .*'veryfast'"),
        ({"threads": 0}, r"threads: .*greater than or equal to 1"),
        ({"gop": 12}, r"gop: "),
    ],
    ids=str,
)
def test_bad_settings_name_the_field_and_the_range(values: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidConfig, match=complaint):
        encoder(**values)


@pytest.mark.parametrize("fps", [16, 15.625, 23.976, "30000/1001", Fraction(73, 10)])
def test_rates_are_kept_exactly(fps: float | str | Fraction) -> None:
    settings = make(VideoSettings, {"width": WIDTH, "height": HEIGHT, "fps": fps})
    assert settings.fps.denominator <= 1001
    assert float(settings.fps) == pytest.approx(float(Fraction(fps)), rel=1e-9)


def test_nvenc_encodes_or_says_what_it_needs() -> None:
    try:
        one = encoder(codec="h264_nvenc", width=320, height=320)
    except InvalidConfig as error:
        assert str(error).startswith("codec: h264_nvenc needs an NVIDIA GPU with NVENC")  # noqa: PT017
        return
    frames = np.full((12, 320, 320, 3), 128, np.uint8)
    blocks = [encoded(one, frames, index=block, first_frame=12 * block) for block in range(3)]
    media = [b"".join(part.data for part in parts) for parts in blocks]
    assert [[part.num_frames for part in parts] for parts in blocks] == [[4, 4, 4]] * 3
    assert_gapless(one.init_segment, media, [12] * 3, Fraction(16))


def test_memory_is_flat() -> None:
    one, frames = encoder(), moving(1)
    process, before = psutil.Process(), 0
    for block in range(300):
        if block == 50:
            before = process.memory_info().rss
        encoded(one, frames, index=block, first_frame=12 * block)
    assert process.memory_info().rss - before < 16 * 2**20  # 250 leaked encoders: 200 MiB
    assert live_containers() == 0


class FailingReformatter:
    """Gives out three pictures, then fails."""

    error: type[Exception]

    def __init__(self) -> None:
        self._left = 3
        self._real = VideoReformatter()

    def reformat(self, frame: av.VideoFrame, **options: Any) -> av.VideoFrame:
        if not self._left:
            raise self.error(1, "broken")
        self._left -= 1
        return self._real.reformat(frame, **options)


@pytest.mark.parametrize(
    ("error", "seen", "message"),
    [
        (MemoryError, MemoryError, "broken"),
        (av.error.ExternalError, CascadeError, "cannot encode block 3: broken"),
    ],
)
def test_error_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], seen: type[Exception], message: str
) -> None:
    one = encoder()
    expected = encode(one, 3)
    with monkeypatch.context() as patch:
        patch.setattr(FailingReformatter, "error", error, raising=False)
        patch.setattr(segments, "VideoReformatter", FailingReformatter)
        with pytest.raises(seen, match=message):
            encode(one, 3)
    assert live_containers() == 0
    assert encode(one, 3) == expected


@needs_ffprobe
@pytest.mark.parametrize("fps", RATES)
def test_ffprobe_agrees(tmp_path: Path, fps: Fraction) -> None:
    one = encoder(fps=fps)
    path = tmp_path / "video.mp4"
    path.write_bytes(one.init_segment + b"".join(encode_blocks(one, range(5))))
    report = ffprobe(path)
    (stream,) = report["streams"]
    assert (stream["codec_name"], stream["pix_fmt"], stream["has_b_frames"]) == ("h264", "yuv420p", 0)
    assert (stream["width"], stream["height"], stream["nb_read_frames"]) == (WIDTH, HEIGHT, "57")
    assert [stream[key] for key in ("color_space", "color_primaries", "color_transfer", "color_range")] == [
        "bt709",
        "bt709",
        "bt709",
        "tv",
    ]
    packets = report["packets"]
    assert [packet["pts"] for packet in packets] == [ticks(frame, fps) for frame in range(57)]
    assert [packet["dts"] for packet in packets] == [packet["pts"] for packet in packets]
    for before, after in pairwise(packets):  # ffprobe may show the rounded nominal duration
        assert abs(before["pts"] + before["duration"] - after["pts"]) <= 1
    assert all("K" in packets[first_frame(block)]["flags"] for block in range(5))
