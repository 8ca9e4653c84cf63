"""LoRAs of a session whose stages are killed, with real processes: each block is made with its own, and so is
what the next stage is told of the blocks before."""

import pytest

from cascade_client import Client
from tests.services.support.faults import PROMPT, SEED, kill_rank, kill_stage
from tests.services.support.playing import BLOCK_FRAMES, FIRST_FRAMES, Played, playing, psnr_db
from tests.services.support.redis_support import needs_redis
from tests.services.support.system import System

pytest_plugins = ("tests.services.support.system_fixtures",)
pytestmark = [needs_redis, pytest.mark.slow]
NUM_BLOCKS, CHANGE_BLOCK = 7, 2
CHANGE_FRAME = FIRST_FRAMES + BLOCK_FRAMES * (CHANGE_BLOCK - 1)
MIN_PSNR_DB = 32.0
"""After encoding. Nothing that the model looks back on was forgotten at the losses, and one block is made
after the other: only rounding differs, as latents travel in bfloat16."""


async def play(system: System, first: dict[str, float], then: dict[str, float], *, is_hurt: bool) -> Played:
    async with Client(system.target) as client:
        session = await client.create(PROMPT, seed=SEED, num_blocks=NUM_BLOCKS, loras=first, stagger=5)
        await client.switch(session, PROMPT, at_block=CHANGE_BLOCK, loras=then)
        async with playing(client, session, max_unacked=1) as player:
            if is_hurt:
                await player.reached(1)
                await kill_rank(system, player)
                await player.reached(3)
                await kill_stage(system, player)
    player.played.check(NUM_BLOCKS)
    return player.played


async def test_the_video_is_the_one_without_losses(system: System) -> None:
    first, then = {"ink": 0.6}, {"ink": 0.3, "clay": -0.8}
    expected = await play(system, first, then, is_hurt=False)
    unchanged = await play(system, first, first, is_hurt=False)
    assert psnr_db(unchanged, expected)[CHANGE_FRAME:].max() < MIN_PSNR_DB, "LoRAs are seen"
    hurt = await play(system, first, then, is_hurt=True)
    assert len(hurt.recoveries) == 2
    assert psnr_db(hurt, expected).min() >= MIN_PSNR_DB
