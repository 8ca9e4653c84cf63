"""A client as a process of its own, to be stopped and killed: `TARGET TOKEN`. Tells each segment it has."""

import asyncio
import sys

from cascade_client import Client, Segment


async def main(target: str, token: str) -> None:
    async with Client(target) as client, client.connect(resume_token=token) as stream:
        async for event in stream:
            if isinstance(event, Segment):
                print(event.sequence, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
