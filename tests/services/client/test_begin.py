"""What a client sends of a picture or a clip, and what it refuses to send."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cascade.v1 import common_pb2
from cascade_client import Client
from cascade_client.start import MAX_BYTES, build_start
from tests.services.support.command_support import cascade
from tests.services.support.fake_gateway import Script, serving

PIXELS = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def pillow() -> Image.Image:
    return Image.fromarray(PIXELS)


def as_file(form: str = "PNG") -> bytes:
    file = BytesIO()
    pillow().save(file, form)
    return file.getvalue()


FORMS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "bytes": lambda path: path.read_bytes(),
    "pillow": lambda _: pillow(),
    "array": lambda _: PIXELS,
    "column_order": lambda _: np.asfortranarray(PIXELS),
    "slice": lambda _: np.repeat(PIXELS, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_picture_is_that_picture(form: str, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(as_file())
    start = build_start(FORMS[form](path), None, None, "pad")
    assert start
    assert start.fit == common_pb2.FIT_PAD
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(start.image))), PIXELS)


def test_a_large_picture_of_pillow_becomes_a_jpeg() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (1800, 1800, 3), dtype=np.uint8)
    start = build_start(Image.fromarray(noise), None, None, None)
    assert start
    assert Image.open(BytesIO(start.image)).format == "JPEG"
    with pytest.raises(ValueError, match=r"image: has 9\.3 MiB, more than the 8 MiB"):
        build_start(noise, None, None, None)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((b"a", b"b", None, None), "image: a session begins from a picture or from a video, not from both"),
        ((b"a", None, 2.0, None), "last_s: is for a video"),
        ((None, None, 2.0, None), "last_s: needs an image or a video"),
        ((None, None, None, "pad"), "fit: needs an image or a video"),
        ((b"", None, None, None), "image: is empty"),
        ((None, bytes(MAX_BYTES + 1), None, None), "video: has 8.0 MiB, more than the 8 MiB"),
        (
            (PIXELS[:, :, 0], None, None, None),
            r"image: an array must be uint8 \[H, W, 3\], not uint8 \[5, 7\]",
        ),
        ((PIXELS / 255, None, None, None), r"must be uint8 \[H, W, 3\], not float64 \[5, 7, 3\]"),
        ((7, None, None, None), "image: int is no path, bytes, image of Pillow or array"),
    ],
)
def test_what_cannot_be_sent_is_told_before_it_is(arguments: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build_start(*arguments)


async def test_the_command_begins_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(as_file())
    (tmp_path / "clip.mp4").write_bytes(b"a clip")
    async with serving(Script()) as gateway:
        gate = ("--gateway", gateway.address)
        still = await cascade("generate", "x", "--image", "cat.png", "--blocks", 4, *gate, cwd=tmp_path)
        clip = await cascade(
            "generate", "x", "--video", "clip.mp4", "--last", "2s", "--fit", "pad", "--at", "3s=y",
            "--seconds", 6, *gate, cwd=tmp_path,
        )  # fmt: skip
        shown = await cascade(
            "generate", "x", "--video", "clip.mp4", "--include-start", "--seconds", 6, *gate, cwd=tmp_path
        )
        specs = [session.message.spec for session in gateway.sessions.values()]
        async with Client(gateway.address) as client:
            await client.create("x", image=PIXELS)
    assert [still.status, clip.status, shown.status] == [0, 0, 0], still.err + clip.err + shown.err
    assert specs[0].start.image == as_file()
    assert (specs[1].start.video, specs[1].start.last.seconds) == (b"a clip", 2)
    assert specs[1].start.fit == common_pb2.FIT_PAD
    assert (sorted(specs[1].prompts), specs[1].num_blocks) == ([0, 4], 8), "all blocks are of 12 pictures"
    assert (specs[2].include_start, specs[2].num_blocks) == (True, 9), "the first is shorter"


async def test_the_command_tells_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "large.mp4").write_bytes(bytes(MAX_BYTES + 1))
    nowhere = ("--gateway", "127.0.0.1:1")
    wrong = {
        "cannot read --image cat.png: ": ("--image", "cat.png"),
        "--video: has 8.0 MiB, more than the 8 MiB": ("--video", "large.mp4"),
        "--last: needs --video": ("--last", "2s"),
        "--fit: needs --image or --video": ("--fit", "pad"),
        "'61s' is more than 60 s": ("--last", "61s"),
    }
    for told, arguments in wrong.items():
        done = await cascade("generate", "x", *arguments, *nowhere, cwd=tmp_path)
        assert done.status != 0
        assert told in done.err
        assert "Traceback" not in done.err
