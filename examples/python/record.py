"""A file, whatever happens on the way: python record.py "a red circle moves left" out.mp4

Lost connections, gateways and machines are mended inside the stream. What is left to a program: a full
installation, nobody there for long, and a session that fails.
"""

import asyncio
import os
import sys

from cascade_client import Client, EndedEarly, Exhausted, InvalidRequest, Saved, Unavailable, save

GATEWAY = os.environ.get("CASCADE_CLIENT_GATEWAY", "localhost:50051")
WAITS_S = (0.5, 1, 2, 4, 8, 16)


async def attempt(client: Client, prompt: str, path: str) -> Saved:
    session = await client.create(prompt, num_blocks=8)
    try:
        async with client.connect(session, give_up_after_s=60) as stream:
            return await save(stream, path)
    except BaseException:
        await client.delete(session)  # nobody will watch it
        raise


async def main(prompt: str, path: str) -> None:
    async with Client(GATEWAY, api_key=os.environ.get("CASCADE_API_KEY")) as client:
        for wait_s in WAITS_S:
            try:
                saved = await attempt(client, prompt, path)
            except InvalidRequest as error:  # would fail again
                raise SystemExit(f"{error}") from None
            except (Exhausted, Unavailable, EndedEarly) as error:
                wait_s = max(wait_s, error.retry_after_s or 0)
                print(f"{error}; again in {wait_s:g} s", flush=True)
                await asyncio.sleep(wait_s)
            else:
                print(f"{saved.path}: {saved.duration_s:.1f} s")
                return
    raise SystemExit("gave up")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
