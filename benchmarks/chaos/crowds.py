"""Who plays what, and how it is told that they got the right thing."""

import asyncio
from collections.abc import Callable

from benchmarks.chaos.checks import Check, DemoCheck, FakeCheck, NoCheck
from benchmarks.chaos.tally import Crowd
from cascade_client import Client, Segment

PROMPTS = (
    "a red circle moves left on a white background",
    "a blue square moves up on a black background",
    "a green triangle rises over black",
    "a yellow ball bounces off the walls on a gray background",
)
DEMO_PROMPTS, DEMO_SEED = PROMPTS[:2], 7
NUM_BLOCKS = {"fake": (40, 160), "demo": (25, 25)}
"""Of the demo model all have the same: a block sees those behind it, so the last ones of a shorter session
are not those of a longer one."""
UNDISTURBED_S = 300.0
"""For the demo model to make what sessions are compared with."""


async def make_crowd(engine: str, seed: int, num_sessions: int, clients: Callable[[int], Client]) -> Crowd:
    """For an installation of our own, where nothing has happened yet."""
    lengths = NUM_BLOCKS[engine]
    if engine == "fake":
        return Crowd(num_sessions, lengths, PROMPTS, True, FakeCheck, seed)
    async with asyncio.timeout(UNDISTURBED_S):
        known = await asyncio.gather(*(undisturbed(clients, prompt, lengths[1]) for prompt in DEMO_PROMPTS))
    expected = dict(zip(DEMO_PROMPTS, known, strict=True))

    def check(_: int, prompt: str) -> Check:
        return DemoCheck(expected[prompt])

    return Crowd(num_sessions, lengths, DEMO_PROMPTS, False, check, seed, DEMO_SEED)


def strangers(seed: int, num_sessions: int) -> Crowd:
    """For an installation whose content nobody knows."""
    return Crowd(num_sessions, NUM_BLOCKS["fake"], PROMPTS, True, lambda *_: NoCheck(), seed)


async def undisturbed(clients: Callable[[int], Client], prompt: str, num_blocks: int) -> list[bytes]:
    """The segments of a whole session."""
    async with clients(0) as client:
        session = await client.create(prompt, seed=DEMO_SEED, num_blocks=num_blocks)
        async with client.connect(session) as stream:
            return [event.data async for event in stream if isinstance(event, Segment)]
