r"""Many viewers of one session over WebRTC (WHEP).

python -m benchmarks.web_whep_viewers --url http://HOST:PORT/v1/sessions/.../whep --token TOKEN --viewers N \
    --seconds S

The command is the viewers' own process: it prints how much they received as one line of JSON.
"""

import argparse
import asyncio
import json

import httpx2

from benchmarks.services_fakes import FRAMES
from benchmarks.web_viewers import JOIN_S, arguments_of
from tests.services.support.whep_support import WhepPlayer


async def watch_all(arguments: argparse.Namespace) -> None:
    players = [WhepPlayer() for _ in range(arguments.viewers)]
    async with asyncio.timeout(JOIN_S), httpx2.AsyncClient(timeout=JOIN_S) as client:
        for player in players:
            await player.connect(client, f"{arguments.url}?resume_token={arguments.token}")
        for player in players:
            while not player.num_pictures:  # noqa: ASYNC110 - a counter of the tests' player
                await asyncio.sleep(0.1)
    print("ready", flush=True)
    before = sum(player.num_pictures for player in players)
    await asyncio.sleep(arguments.seconds)
    num_pictures = sum(player.num_pictures for player in players) - before
    print(json.dumps({"num_segments": num_pictures / FRAMES, "late_ms": []}), flush=True)
    for player in players:
        await player.close()


if __name__ == "__main__":
    asyncio.run(watch_all(arguments_of(__doc__ or "")))
