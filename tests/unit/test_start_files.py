"""What a video begins from: pictures and clips of every kind to the video's size and speed, against
ffmpeg."""

import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cascade_core.errors import UnusableFile
from cascade_core.media.start.fitting import crop_box, inner_size
from cascade_core.media.start.pictures import open_start
from cascade_core.media.start.start_file import StartBounds, StartFile, StartShape
from cascade_core.media.start.timing import choose

SHAPE = StartShape(96, 64, Fraction(16), block_frames=3, max_blocks=4)
BOUNDS = StartBounds(max_pixels=400_000, max_video_pixels=30_000, max_s=5)
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg")
Pixels = NDArray[np.uint8]
Film = Callable[..., bytes]


def opened(data: bytes, kind: Any = "image", shape: StartShape = SHAPE, **options: Any) -> Pixels:
    return np.stack(list(open_start(StartFile(kind, data, **options), shape, BOUNDS).pictures))


def complaint(data: bytes, kind: Any = "image", **options: Any) -> str:
    with pytest.raises(UnusableFile) as caught:
        opened(data, kind, **options)
    return str(caught.value)


def quarters(width: int = 192, height: int = 128) -> Pixels:
    """Red, green, blue and grey, from the upper left corner on."""
    pixels = np.zeros((height, width, 3), np.uint8)
    down, right = height // 2, width // 2
    pixels[:down, :right], pixels[:down, right:] = (200, 0, 0), (0, 200, 0)
    pixels[down:, :right], pixels[down:, right:] = (0, 0, 200), (90, 90, 90)
    return pixels


def saved(picture: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, kind, **options)
    return file.getvalue()


def at_corners(picture: Pixels) -> list[tuple[int, ...]]:
    height, width = picture.shape[:2]
    rows, columns = (height // 4, height * 3 // 4), (width // 4, width * 3 // 4)
    return [tuple(picture[row, column].tolist()) for row in rows for column in columns]


def is_like(picture: Pixels, expected: Pixels, tolerance: float = 6.0) -> bool:
    return bool(np.abs(picture.astype(int) - expected.astype(int)).mean() < tolerance)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_each_kind_of_picture_opens(kind: str) -> None:
    (picture,) = opened(saved(quarters(), kind))
    assert picture.shape == (64, 96, 3)
    assert is_like(picture, quarters(96, 64))


def test_what_is_wide_is_cut_or_padded() -> None:
    wide = saved(quarters(384, 128), "PNG")
    (cropped,) = opened(wide)
    assert at_corners(cropped) == at_corners(quarters())
    (padded,) = opened(wide, fit="pad")
    assert not padded[:15].any()
    assert not padded[-15:].any()
    assert at_corners(padded[16:48]) == at_corners(quarters())
    (tall,) = opened(saved(quarters(64, 128), "PNG"), fit="pad")
    assert not tall[:, :31].any()
    assert at_corners(tall[:, 32:64]) == at_corners(quarters())


def test_a_camera_on_its_side_is_followed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = np.rot90(quarters(192, 128)).copy()
    (picture,) = opened(saved(turned, "JPEG", exif=exif, quality=95))
    assert is_like(picture, quarters(96, 64))


def of_palette() -> Image.Image:
    picture = Image.new("P", (96, 64), 3)
    picture.putpalette([0, 0, 0] * 3 + [10, 20, 30])
    return picture


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.full((64, 96), 0x80FF, np.uint16))


@pytest.mark.parametrize(
    ("picture", "options", "expected"),
    [
        (Image.new("RGBA", (96, 64), (255, 0, 0, 0)), {}, (255, 255, 255)),
        (Image.new("RGBA", (96, 64), (0, 0, 0, 127)), {}, (128, 128, 128)),
        (Image.new("LA", (96, 64), (9, 255)), {}, (9, 9, 9)),
        (of_palette(), {"transparency": 3}, (255, 255, 255)),
        (Image.new("1", (96, 64), 1), {}, (255, 255, 255)),
        (sixteen_bits(), {}, (128, 128, 128)),
        (Image.new("RGB", (96, 64), (1, 2, 3)), {"transparency": (1, 2, 3)}, (255, 255, 255)),
    ],
    ids=["clear", "half", "grey", "palette", "bits", "16 bits", "a colour is clear"],
)
def test_alpha_lies_on_white_and_depth_is_eight_bits(
    picture: Image.Image, options: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    (pixels,) = opened(saved(picture, "PNG", **options))
    assert tuple(pixels[32, 48].tolist()) == expected


def test_inks_become_light() -> None:
    (picture,) = opened(saved(Image.new("CMYK", (96, 64), (0, 255, 255, 0)), "JPEG"))
    assert is_like(picture, np.full((64, 96, 3), (255, 0, 0), np.uint8), 12)


def test_bad_pictures_are_told_in_a_sentence() -> None:
    good = saved(quarters(), "PNG")
    frames = [Image.fromarray(quarters()), Image.new("RGB", (192, 128))]
    still, *rest = frames
    assert complaint(b"") == "is of an unknown type, must be PNG, JPEG or WebP"
    assert complaint(saved(quarters(), "GIF")) == "is GIF, must be PNG, JPEG or WebP"
    assert complaint(b"\0\0\0\x1cftypheic") == "is HEIC, must be PNG, JPEG or WebP"
    assert complaint(b"#EXTM3U\nfile:///etc/passwd", "video") == "is a playlist, must be MP4"
    assert complaint(good[: len(good) // 2]).startswith("is damaged or cut short")
    assert complaint(good[:20]).startswith("is damaged or cut short")
    assert complaint(saved(quarters(), "JPEG")[:-400]).startswith("is damaged or cut short")
    assert (
        complaint(saved(np.zeros((8, 96, 3), np.uint8), "PNG"))
        == "is 96x8, must be 16 pixels or more at each side"
    )
    large = saved(Image.new("1", (2000, 400)), "PNG")
    assert complaint(large) == "is 2000x400 (0.8 megapixels), must have 0.4 megapixels or fewer"
    for kind in ("WEBP", "PNG"):
        moving = saved(still, kind, save_all=True, append_images=rest)
        assert "must be a single picture" in complaint(moving)


def test_cut_and_inner_sizes() -> None:
    assert crop_box((400, 100), (100, 100), 1.0) == (150, 0, 250, 100)
    assert crop_box((100, 400), (200, 100), 1.0) == (0, 175, 100, 225)
    assert crop_box((100, 100), (200, 100), 2.0) == (0, 0, 100, 100), "wide pixels"
    assert inner_size((400, 100), (100, 100), 1.0) == (100, 25)
    assert inner_size((1, 10_000), (96, 64), 1.0) == (1, 64)


def chosen(times: list[float], last_s: float | None = None, shape: StartShape = SHAPE) -> list[int]:
    return choose([Fraction(time).limit_denominator(10**6) for time in times], shape, last_s)


def test_pictures_are_taken_by_their_times() -> None:
    same = [n / 16 for n in range(30)]
    assert chosen(same) == list(range(9, 30)), "the last 21 of 30"
    assert chosen([n / 48 for n in range(90)]) == list(range(29, 90, 3))
    twice = chosen([n / 8 for n in range(12)])
    assert twice == [n // 2 for n in range(2, 23)]
    assert chosen([0.0, 0.1, 5.0]) == [1] * 44 + [2], "a picture stays until the next one comes"
    assert len(chosen(same, last_s=0.01)) == 9
    assert len(chosen(same, last_s=1.2)) == 21
    assert len(chosen([n / 16 for n in range(600)])) == 45, "max_blocks"
    assert chosen([1000 + n * 0.0625004 for n in range(9)]) == list(range(9)), "rounded times"


def test_a_clip_of_less_than_a_block_is_told_how_long_it_must_be() -> None:
    with pytest.raises(UnusableFile) as caught:
        chosen([n / 16 for n in range(8)])
    assert str(caught.value) == "has 8 pictures (0.5 s) at 16 fps, must have 9 pictures (0.6 s) or more"


@pytest.fixture
def film(tmp_path: Path) -> Film:
    """ffmpeg's moving test picture, in whatever form."""

    def make(
        *options: str, source: str = "testsrc2=size=192x128:rate=16:duration=1.5", suffix: str = "mp4"
    ) -> bytes:
        path = tmp_path / f"film.{suffix}"
        command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, *options, str(path)]
        subprocess.run(command, check=True, capture_output=True)
        return path.read_bytes()

    return make


def by_ffmpeg(data: bytes, tmp_path: Path, *options: str, width: int = 96, height: int = 64) -> Pixels:
    """All pictures, turned and scaled by ffmpeg."""
    path = tmp_path / "oracle.mp4"
    path.write_bytes(data)
    size = f"scale={width}:{height}:flags=area"
    command = ["ffmpeg", "-v", "error", "-i", str(path), *options, "-vf", size, "-f", "rawvideo"]
    raw = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@needs_ffmpeg
@pytest.mark.parametrize(
    "options",
    [
        ["-c:v", "libx264", "-pix_fmt", "yuv420p"],
        ["-c:v", "libx264", "-pix_fmt", "yuv444p"],
        ["-c:v", "libx264", "-pix_fmt", "yuvj420p", "-bf", "3"],
        ["-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=none"],
        ["-c:v", "libvpx-vp9", "-deadline", "realtime"],
        ["-c:v", "mpeg4", "-q:v", "2"],
    ],
    ids=["h264", "444", "full range", "10 bits", "vp9", "mpeg4"],
)
def test_clips_of_every_kind_are_what_ffmpeg_sees(film: Film, tmp_path: Path, options: list[str]) -> None:
    data = film(*options)
    pictures = opened(data, "video")
    assert pictures.shape == (21, 64, 96, 3)
    expected = by_ffmpeg(data, tmp_path)[-21:]
    assert is_like(pictures, expected)
    assert not is_like(pictures[:-4], expected[4:]), "the pictures move, so others differ"


@needs_ffmpeg
def test_a_faster_clip_keeps_its_pace(film: Film, tmp_path: Path) -> None:
    data = film(source="testsrc2=size=192x128:rate=60:duration=1.5")
    assert is_like(opened(data, "video"), by_ffmpeg(data, tmp_path)[-1 - 4 * 20 :: 4][:21], 12)


@needs_ffmpeg
def test_a_clip_from_a_phone_on_its_side(film: Film, tmp_path: Path) -> None:
    turned = BytesIO()
    upright = film(source="testsrc2=size=128x192:rate=16:duration=1")
    with av.open(BytesIO(upright)) as source, av.open(turned, "w", format="mp4") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    data = turned.getvalue()
    pictures = opened(data, "video")
    expected = by_ffmpeg(data, tmp_path)[-9:]
    assert is_like(pictures, expected)
    assert not is_like(pictures[:, ::-1, ::-1], expected)


@needs_ffmpeg
def test_wide_pixels_are_followed(film: Film, tmp_path: Path) -> None:
    data = film("-vf", "scale=96:128,setsar=2")
    assert is_like(opened(data, "video"), by_ffmpeg(film(), tmp_path)[-21:], 12)


@needs_ffmpeg
def test_clips_that_are_not_taken(film: Film, tmp_path: Path) -> None:
    assert complaint(film("-c:v", "mjpeg"), "video").startswith("has mjpeg video, must have H.264, H.265,")
    assert complaint(film(suffix="mkv"), "video") == "is WebM or Matroska, must be MP4"
    sound = film("-f", "lavfi", "-i", "sine=duration=1", "-map", "1")
    assert complaint(sound, "video") == "has no video in it"
    long = film(source="color=size=32x32:rate=4:duration=6")
    assert complaint(long, "video") == "is 5.8 s long, must be 5 s or shorter"
    large = film(source="color=size=256x192:rate=16:duration=1")
    assert "is 256x192" in complaint(large, "video")
    data = film()
    for cut in (len(data) // 2, 40):
        assert complaint(data[:cut], "video").startswith("is damaged or cut short")


@needs_ffmpeg
def test_a_clip_that_points_elsewhere_stays_within_itself(film: Film, tmp_path: Path) -> None:
    """A track whose data are said to lie in another file (QuickTime's `dref` of kind `alis` or `url `)."""
    data = film()
    entry = data.index(b"url \0\0\0\x01")  # flag 1: the data are in this file
    pointing = data[:entry] + b"url \0\0\0\0" + data[entry + 8 :]
    opened_all = opened(pointing, "video")  # FFmpeg looks for the data here all the same
    assert opened_all.shape == (21, 64, 96, 3)
