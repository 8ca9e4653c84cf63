"""The shipped demo model, seen by image analysis: it makes what the prompt says."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from cascade_core.config import find_card
from cascade_core.errors import CascadeError
from cascade_core.weights.locate import locate
from demo_world.clips import Clip, Take, engines, film, first_frame
from demo_world.configurations import all_configurations, engine_config
from demo_world.darkroom import Darkroom, darkroom
from demo_world.demo import NUM_BLOCKS, PROMPTS, read_video
from demo_world.experiments import record, steady_takes, sum_up_steady, sum_up_switches, switch_takes
from demo_world.score import judge, measure
from demo_world.world import FPS, Scene

CARD = find_card("demo")
SCENES = (
    Scene("red", "circle", "circle", "white"),
    Scene("blue", "square", "bounce", "sand"),
    Scene("green", "triangle", "left", "black"),
)


@pytest.fixture(scope="module")
def room() -> Iterator[Darkroom]:
    with darkroom(CARD, None, 1) as room:
        yield room


def film_all(room: Darkroom, configuration: str, takes: Sequence[Take], num_kept: int = 0) -> dict[int, Clip]:
    config = engine_config("demo", None, all_configurations(CARD)[configuration])
    clips: dict[int, Clip] = {}

    async def run() -> None:
        async with engines(config, 1) as running:
            await film(running, room, dict(enumerate(takes)), num_kept, clips.__setitem__)

    asyncio.run(run())
    return clips


@pytest.mark.parametrize(
    ("configuration", "num_prompts"),
    [
        ("bidirectional-1", 7),
        pytest.param("bidirectional-1", 21, marks=pytest.mark.slow),
        pytest.param("sequential", 21, marks=pytest.mark.slow),
    ],
)
def test_videos_show_what_their_prompts_say(room: Darkroom, configuration: str, num_prompts: int) -> None:
    """Far below the measured shares (docs/demo.md), far above those of a model that reads no prompts; and a
    prompt with a strange word still works."""
    scene = Scene("green", "circle", "right", "black")
    strange = Take({0: scene}, {0: "a shiny green circle moves right on a black background"}, 3, 4)
    clips = film_all(room, configuration, [*steady_takes(num_prompts), strange])
    right = clips.pop(num_prompts).scores(scene).right()
    assert right["colour"]
    assert right["background"]
    summary = sum_up_steady({number: record(clip) for number, clip in clips.items()}, {})
    shares = {name: summary[name]["share"] for name in ("colour", "shape", "motion", "background")}
    assert min(shares.values()) > 0.7, shares


@pytest.mark.slow
def test_a_prompt_switch_shows(room: Darkroom) -> None:
    clips = film_all(room, "bidirectional-1", switch_takes(5, "immediate"))
    settled = sum_up_switches({number: record(clip) for number, clip in clips.items()}, {})["settled"]
    assert min(settled[name]["share"] for name in ("colour", "background", "one_object")) > 0.7


@pytest.mark.slow
def test_a_stretch_is_decoded_as_in_the_whole_clip(room: Darkroom) -> None:
    whole = steady_takes(1, 9)[0]
    part = replace(whole, stretches=(range(2), range(7, 9)))
    clips = film_all(room, "sequential", [whole, part], 2)
    frames, seen = clips[0].frames, clips[1].frames
    assert frames is not None
    assert seen is not None
    expected = np.concatenate([frames[: first_frame(2)], frames[first_frame(7) :]])
    assert np.abs(seen.astype(int) - expected).max() <= 4  # of 255


@pytest.mark.slow
def test_a_darkroom_that_is_lost() -> None:
    """Which the kernel may do where memory is short."""
    latents = np.zeros((3, 16, 12, 12), np.float32)

    async def lose() -> None:
        others = set(psutil.Process().children())
        with darkroom(CARD, None, 1) as room:
            await room.develop([latents], 0, False)
            (process,) = (
                child
                for child in set(psutil.Process().children()) - others
                if "spawn_main" in str(child.cmdline())
            )
            process.kill()
            await room.develop([latents], 0, False)

    with pytest.raises(CascadeError, match="a decoding process ended"):
        asyncio.run(lose())


ONE_THREAD_EACH = {"CASCADE_STAGE_THREADS_PER_RANK": "1", "CASCADE_DECODER_THREADS": "1"}
"""Beside other tests, more wait for each other."""
SHORTER = """
import shutil, sys
from demo_world import demo

num_blocks, *blocks = map(int, sys.argv.pop().split(","))
demo.NUM_BLOCKS, demo.PROMPTS = num_blocks, dict(zip(blocks, demo.PROMPTS.values()))
film, made = demo.film, {}

async def once(path, *others):
    if made:
        shutil.copy(path.parent / "demo.mp4", path)
    else:
        made.update(await film(path, *others))
    return made

demo.film = once
demo.main()
"""


@pytest.mark.parametrize(
    ("num_blocks", "blocks"), [(12, (0, 6)), pytest.param(28, (0, 10, 19), marks=pytest.mark.slow)]
)
def test_the_demo_makes_the_video_that_it_describes(
    tmp_path: Path, num_blocks: int, blocks: tuple[int, ...]
) -> None:
    """And one that is shorter, and made once."""
    command = [sys.executable, "-m", "demo_world.demo", "--out", str(tmp_path)]
    if num_blocks != NUM_BLOCKS:
        length = ",".join(map(str, (num_blocks, *blocks)))
        command = [sys.executable, "-c", SHORTER, "--out", str(tmp_path), length]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env=os.environ | ONE_THREAD_EACH
    )
    assert result.returncode == 0, result.stderr
    frames = read_video(tmp_path / "demo.mp4")
    assert len(frames) == 12 * num_blocks - 3
    assert len(read_video(tmp_path / "demo-sequential.mp4")) == len(frames)
    track, starts = measure(frames), [9 + 12 * (block - 1) if block else 0 for block in blocks]
    for start, end, scene in zip(starts, [*starts[1:], len(frames)], SCENES, strict=False):
        right = judge(track, scene, end - 48, end - 12).right()  # the last 3 s, less a block that may mix
        assert right["colour"], scene
        assert right["background"], scene
        assert start < end
    figures = json.loads((tmp_path / "demo.json").read_text())
    for run in figures.values():
        assert run["num_frames"] == len(frames)
        assert run["fps"] > 0
        asked = [f"block-{block}" for block in blocks if block]
        assert [receipt["request_id"] for receipt in run["prompt_switches"]] == asked
    assert np.asarray(Image.open(tmp_path / "demo.png")).std() > 10


def test_it_is_twenty_seconds_with_two_switches() -> None:
    assert 12 * NUM_BLOCKS - 3 >= 20 * FPS
    assert list(PROMPTS) == [0, 10, 19]


def test_diffusers_reads_the_shipped_transformer() -> None:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel.from_pretrained(locate(CARD, None).transformer)
    assert model.config.num_layers == CARD.transformer.num_layers
