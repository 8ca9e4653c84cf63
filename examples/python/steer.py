"""Steers a video with single keys while it is made: python steer.py

To see it meanwhile, in another terminal: cascade watch SESSION --out - | ffplay -
"""

import asyncio
import os
import sys
import termios
import tty

from cascade_client import Client, Event, PromptReceipt, save

GATEWAY = os.environ.get("CASCADE_CLIENT_GATEWAY", "localhost:50051")
PROMPTS = {"r": "a red circle moves left", "g": "a green triangle moves up", "b": "a blue square bounces"}


def tell(event: Event, _: object) -> None:
    if isinstance(event, PromptReceipt) and event.state == "APPLIED" and event.request_id:
        print(f"on the picture from {event.touched_time_s:.2f} s on")


async def main() -> None:
    keys: asyncio.Queue[str] = asyncio.Queue()
    keyboard = sys.stdin.fileno()
    asyncio.get_running_loop().add_reader(keyboard, lambda: keys.put_nowait(os.read(keyboard, 1).decode()))

    async with Client(GATEWAY, api_key=os.environ.get("CASCADE_API_KEY")) as client:
        session = await client.create(PROMPTS["r"])
        # Few segments ahead of the last one stored: a switch is seen soon.
        async with client.connect(session, max_unacked_segments=2) as stream:
            saving = asyncio.create_task(save(stream, "steered.mp4", tell))
            saving.add_done_callback(lambda _: keys.put_nowait("q"))
            print(f"{stream.name}: r, g or b changes the prompt, q ends it")
            while (key := await keys.get()) not in ("q", ""):
                if prompt := PROMPTS.get(key):
                    receipt = await stream.switch(prompt)
                    print(f"{prompt}: {receipt.state.lower()}")
            if not saving.done():
                await stream.end()
            saved = await saving
    print(f"{saved.path}: {saved.duration_s:.1f} s")


if __name__ == "__main__":
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)  # each key by itself, not lines
    try:
        asyncio.run(main())
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
