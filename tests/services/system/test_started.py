"""Sessions that go on from clips of the demo's world, while what makes them is killed in the first two
blocks: the video is what the world would have shown, with no more of a jump at the seam than without."""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch

from cascade_client import Client, Session
from cascade_core.media.media import Mp4Writer
from demo_world.clips import Clip, Take
from demo_world.darkroom import Picture
from demo_world.motion import steps
from demo_world.rows import Row
from demo_world.score import measure
from demo_world.starts import NEAR, record, start_takes
from demo_world.world import SPEED, World
from tests.services.support.media_support import assert_gapless, decode
from tests.services.support.playing import BLOCK_FRAMES, FPS, Player, playing
from tests.services.support.redis_support import needs_redis
from tests.services.support.system import Program, System, busy

pytestmark = needs_redis
pytest_plugins = ("tests.services.support.system_fixtures",)
MOST_JUMP = SPEED + 3.0
"""Pixels from one picture to the next: a loss may cost some sharpness, no leap."""
SAME_JUMP = 1.0
"""Pixels by which the jump at the seam may differ from the one without a loss."""
SAME_SHARE = 0.1
"""Of the pictures: as much less may be right with a loss. The model itself does not get all clips right."""
VICTIMS = (
    ("stage", "decoder"),
    ("rank", "decoder"),
    ("decoder", "stage"),
    ("decoder", "gateway"),
    ("gateway", "rank"),
)
TAKES = start_takes(7, "clip", still_blocks=4)
"""One of each motion; the first alone is what a commit needs."""


def name_of(take: Take) -> str:
    return "-".join(asdict(take.scenes[0]).values())


@pytest.mark.parametrize(
    ("take", "victims"),
    [
        pytest.param(
            take,
            victims,
            id=f"{name_of(take)}: {', '.join(victims)}",
            marks=[] if take is TAKES[0] else [pytest.mark.slow],
        )
        for take, victims in zip(TAKES, cycle(VICTIMS), strict=False)
    ],
)
async def test_it_goes_on_as_the_world_would(
    system: System, tmp_path: Path, take: Take, victims: Sequence[str]
) -> None:
    """The first is killed while block 0 is made or before, the second once its segment has come."""
    path, given = tmp_path / "clip.mp4", World(take.seed).video(take.given)
    with Mp4Writer(path, given.shape[2], given.shape[1], FPS) as writer:
        writer.append(torch.from_numpy(given))
    async with Client(system.target) as client:
        expected = await play(system, client, take, path, ())
        hurt = await play(system, client, take, path, victims)
    told = {"without a loss": expected, "with": hurt}
    scores = [judged(row) for row in (expected, hurt)]
    lost = {name: value for name, value in scores[0].items() if scores[1][name] < value - SAME_SHARE}
    assert not lost, told
    assert max(hurt["away"][:2]) <= NEAR, told
    assert abs(hurt["seam"] - expected["seam"]) <= SAME_JUMP, (hurt["seam"], expected["seam"])


def judged(row: Row) -> dict[str, float]:
    """Shares of pictures, or steps, that are as asked."""
    return {name: share for name, share in row["scores"].items() if name != "jump"}


async def play(system: System, client: Client, take: Take, path: Path, victims: Sequence[str]) -> Row:
    """What the evaluation's image analysis says of the video."""
    session = await client.create(take.prompts[0], video=path, num_blocks=take.num_blocks, seed=take.seed)
    assert session.message.num_given_blocks == len(take.given)
    if victims:
        await kill(system, session, victims[0])
    async with playing(client, session) as player:
        if victims:
            await player.reached(1)
            await kill(system, session, victims[1])
    return look(player, take)


def look(player: Player, take: Take) -> Row:
    played, num_frames = player.played, [BLOCK_FRAMES] * take.num_blocks
    assert [segment.sequence for segment in played.segments] == list(range(1, take.num_blocks + 1))
    assert_gapless(played.init, [segment.data for segment in played.segments], num_frames, Fraction(FPS))
    last_given = World(take.seed).video(take.given)[-1:]
    track = measure(np.concatenate([last_given, decode(played.video)]))
    assert np.linalg.norm(steps(track.places), axis=-1)[: 2 * BLOCK_FRAMES].max() < MOST_JUMP
    return record(Clip(take, [Picture(track, None)], []))


async def kill(system: System, session: Session, victim: str) -> None:
    """kill -9 of what has the session, as soon as something has it."""
    if victim == "gateway":
        await asyncio.to_thread(owner(system, session).kill)
        return
    kind = system.decoders if victim == "decoder" else system.stages
    programs = [program for program in kind if program.is_running]

    def has_a_place() -> bool:
        return any(program.status().num_sessions for program in programs)

    await asyncio.to_thread(system.wait, "it has a place", has_a_place)
    found = await asyncio.to_thread(busy, programs)
    if victim == "rank":
        os.kill(found.workers()[-1].pid, signal.SIGKILL)
    else:
        await asyncio.to_thread(found.kill)


def owner(system: System, session: Session) -> Program:
    """The gateway that has the session."""
    id = session.name.removeprefix("sessions/")
    (found,) = [
        gateway
        for gateway in system.gateways
        if any(line.get("session") == id for line in gateway.logged("call ended"))
    ]
    return found
