"""Sessions that go on from a clip of the demo's world, while what makes them is killed in the first two
blocks: the video is what the world would have shown, without a jump at the seam."""

import asyncio
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from cascade_client import Client, Session
from cascade_core.media.media import Mp4Writer
from demo_world.score import judge, measure
from demo_world.world import SPEED, Frames, Scene, World
from tests.services.support.media_support import assert_gapless, decode
from tests.services.support.playing import BLOCK_FRAMES, FPS, Played, playing
from tests.services.support.redis_support import needs_redis
from tests.services.support.system import System, busy

pytestmark = needs_redis
pytest_plugins = ("tests.services.support.system_fixtures",)
SCENE, PROMPT = Scene("red", "circle", "right", "black"), "a red circle moves right on a black background"
NUM_GIVEN, NUM_BLOCKS = 4, 6
MOST_JUMP = SPEED + 3.0
"""Pixels from one picture to the next: a loss may cost some sharpness, no leap."""


@pytest.fixture(scope="module")
def given() -> Frames:
    return World(seed=5).video([SCENE] * NUM_GIVEN)


@pytest.fixture(scope="module")
def clip(given: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with Mp4Writer(path, given.shape[2], given.shape[1], FPS) as writer:
        writer.append(torch.from_numpy(given))
    return path


def owner(system: System, session: Session) -> Callable[[], None]:
    """Kills the gateway that has the session."""
    id = session.name.removeprefix("sessions/")
    (found,) = [
        gateway
        for gateway in system.gateways
        if any(line.get("session") == id for line in gateway.logged("call ended"))
    ]
    return found.kill


@pytest.mark.parametrize(
    "victims",
    [
        ("stage", "decoder"),
        pytest.param(("decoder", "gateway"), marks=pytest.mark.slow),
        pytest.param(("gateway", "stage"), marks=pytest.mark.slow),
    ],
)
async def test_it_goes_on_as_the_world_would(
    system: System, clip: Path, given: Frames, victims: tuple[str, str]
) -> None:
    """The first is killed while block 0 is made or before, the second once its segment has come."""
    async with Client(system.target) as client:
        session = await client.create(PROMPT, video=clip, num_blocks=NUM_BLOCKS, seed=3)
        assert session.message.num_given_blocks == NUM_GIVEN

        async def kill(victim: str) -> None:
            if victim == "gateway":
                await asyncio.to_thread(owner(system, session))
            else:
                programs = system.stages if victim == "stage" else system.decoders
                await asyncio.to_thread(lambda: busy(programs).kill())

        if victims[0] != "gateway":
            programs = system.stages if victims[0] == "stage" else system.decoders
            await asyncio.to_thread(
                system.wait,
                "it has a place",
                lambda: sum(each.status().num_sessions for each in programs) == 1,
            )
        await kill(victims[0])
        async with playing(client, session) as player:
            await player.reached(1)
            await kill(victims[1])
        check(player.played, given)


def check(played: Played, given: Frames) -> None:
    assert [segment.sequence for segment in played.segments] == list(range(1, NUM_BLOCKS + 1))
    num_frames = [BLOCK_FRAMES] * NUM_BLOCKS
    assert_gapless(played.init, [segment.data for segment in played.segments], num_frames, Fraction(FPS))
    frames = np.concatenate([given[-1:], decode(played.video)])
    track = measure(frames)
    right = judge(track, SCENE, first=1).right()
    assert all(right.values()), right
    moves = (np.diff(track.places, axis=0) + 48) % 96 - 48
    assert np.linalg.norm(moves, axis=-1)[: 2 * BLOCK_FRAMES].max() < MOST_JUMP
