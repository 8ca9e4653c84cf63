# ruff: noqa: ASYNC240 - small files
"""`cascade-engine generate` from a clip or a picture of the demo's world: what comes is what the world would
show."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cascade_core.commands.begin_from import BeginningOptions
from cascade_core.commands.beginning import check_beginning
from cascade_core.commands.generate import GenerateOptions, Progress, check_options, generate
from cascade_core.config import EngineConfig, find_card
from cascade_core.errors import InvalidConfig, UnusableFile
from cascade_core.media.media import Mp4Writer
from demo_world.score import judge, measure
from demo_world.world import SPEED, Frames, Scene, World

SCENE, PROMPT = Scene("red", "circle", "right", "black"), "a red circle moves right on a black background"
CARD = find_card("demo")


@pytest.fixture(scope="module")
def given() -> Frames:
    return World(seed=5).video([SCENE] * 3)


@pytest.fixture(scope="module")
def clip(given: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with Mp4Writer(path, 96, 96, 16) as writer:
        writer.append(torch.from_numpy(given))
    return path


def options(path: Path, out: Path, **changes: object) -> GenerateOptions:
    """Of a clip, four blocks in one after the other."""
    beginning = BeginningOptions("video", path)
    plain = GenerateOptions(EngineConfig("demo", stagger=5), PROMPT, 4, output=out, beginning=beginning)
    return replace(plain, **changes)  # type: ignore[arg-type]


def pictures(path: Path) -> Frames:
    with av.open(path) as video:
        return np.stack([each.to_ndarray(format="rgb24") for each in video.decode(video=0)])


def check_goes_on(given: Frames, made: Frames) -> None:
    """One object, as before, and no leap at the seam or after it."""
    track = measure(np.concatenate([given[-1:], made]))
    right = judge(track, SCENE, first=1).right()
    assert all(right.values()), right
    moves = (np.diff(track.places, axis=0) + 48) % 96 - 48
    assert np.linalg.norm(moves, axis=-1).max() < SPEED + 3


async def test_a_video_goes_on_from_the_end_of_a_clip(clip: Path, given: Frames, tmp_path: Path) -> None:
    told: list[Progress] = []
    figures = await generate(options(clip, tmp_path / "out.mp4"), told.append)
    assert (figures["num_blocks"], figures["num_frames"]) == (4, 48)
    assert [each.num_blocks for each in told] == [0, 1, 2, 3, 4]
    made = pictures(tmp_path / "out.mp4")
    assert len(made) == 48
    check_goes_on(given, made)


@pytest.mark.slow
async def test_the_clip_can_be_part_of_the_video_and_a_picture_begins_to_move(
    clip: Path, given: Frames, tmp_path: Path
) -> None:
    shown = BeginningOptions("video", clip, last_s=1.3, is_shown=True)
    await generate(options(clip, tmp_path / "shown.mp4", beginning=shown), lambda _: None)
    made = pictures(tmp_path / "shown.mp4")
    assert len(made) == 4 * 12 - 3
    assert np.abs(made[:21].astype(int) - given[-21:]).mean() < 6, "the last two blocks of the clip"
    check_goes_on(made[20:21], made[21:])
    with pytest.raises(InvalidConfig, match="--blocks: must be above 2"):
        await generate(options(clip, tmp_path / "x.mp4", beginning=shown, num_blocks=2), lambda _: None)
    still = tmp_path / "still.png"
    Image.fromarray(given[0]).save(still)
    picture = BeginningOptions("image", still)
    await generate(options(clip, tmp_path / "still.mp4", beginning=picture), lambda _: None)
    check_goes_on(given[:1], pictures(tmp_path / "still.mp4"))
    still.write_bytes(b"no picture")
    with pytest.raises(UnusableFile):
        await generate(options(clip, tmp_path / "y.mp4", beginning=picture), lambda _: None)
    assert not list(tmp_path.glob("[xy].mp4*")), "nothing half is left"


def test_what_cannot_be_is_said_before_anything_is_loaded(clip: Path, tmp_path: Path) -> None:
    begun = options(clip, tmp_path / "out.mp4")
    check_options(begun, CARD)
    for changes, told in (
        ({"output": None, "latents": tmp_path / "l.safetensors"}, "--video: needs -o"),
        ({"decoder": "taehv", "decoder_weights": clip}, "--video: --decoder taehv cannot encode"),
        ({"beginning": BeginningOptions("image", tmp_path / "none.png")}, "--image .*: no such file"),
    ):
        with pytest.raises(InvalidConfig, match=told):
            check_options(replace(begun, **changes), CARD)
    check_beginning(BeginningOptions("video", clip), CARD, "vae", tmp_path / "out.mp4")
