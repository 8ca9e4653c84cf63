"""`python -m demo_world.demo`: one video with two prompt switches, through all services of this repository.

Made twice: as a cascade, and sequentially to compare. Writes demo.mp4 (cascade), demo-sequential.mp4,
demo.png (contact sheet), demo.json (what was measured) and logs/.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm import tqdm

from cascade_client import CascadeClientError, Client, Event, PromptReceipt, Saved, Segment, Stream, save
from cascade_core.config import find_card
from cascade_core.errors import CascadeError
from cascade_core.machine import machine
from demo_world.clips import first_frame
from demo_world.sheets import contact_sheet, video_rows
from demo_world.system import running_system
from demo_world.world import FPS, Frames

NUM_BLOCKS = 28
"""20.8 s."""
PROMPTS = {
    0: "a red circle moves in a circle on a white background",
    10: "a blue square bounces on a sand background",
    19: "a green triangle moves left on a black background",
}
STAGGER = 2
"""The cascade whose videos score like sequential ones (docs/demo.md); 1 is faster, and a little worse."""
SHEET_EVERY = 6
"""Pictures between two on the contact sheet."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_world.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder (default: out)")
    parser.add_argument("--ranks", type=int, default=1, help="rank processes (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        demo(options.out, options.ranks, options.seed)
    except (CascadeError, CascadeClientError) as error:
        sys.exit(f"demo: {error}")


def demo(out: Path, num_ranks: int, seed: int) -> None:
    """Make both videos, the sheet and the figures. Raises CascadeError, CascadeClientError."""
    sequential = find_card("demo").sampling.num_passes
    figures = {
        "cascade": asyncio.run(film(out / "demo.mp4", STAGGER, num_ranks, seed)),
        "sequential": asyncio.run(film(out / "demo-sequential.mp4", sequential, num_ranks, seed)),
    }
    (out / "demo.json").write_text(json.dumps(figures, indent=2) + "\n")
    starts = {first_frame(block): prompt for block, prompt in PROMPTS.items()}
    rows = video_rows(read_video(out / "demo.mp4"), starts)
    contact_sheet(rows, out / "demo.png", SHEET_EVERY)
    for name, run in figures.items():
        print(
            f"{name:10}  {run['num_frames']} frames, {run['fps']:.0f} a second delivered "
            f"({FPS} are played), the first after {run['first_segment_s']:.2f} s"
        )
    print(f"Look at {out / 'demo.mp4'} and {out / 'demo.png'}.")


async def film(path: Path, stagger: int, num_ranks: int, seed: int) -> dict[str, Any]:
    """One session of a system of its own; what was measured."""
    settings = {"CASCADE_STAGE_STAGGER": str(stagger)}
    print(f"{path.name}: starting the services", file=sys.stderr)
    async with (
        running_system(path.parent / "logs", settings, "--ranks", str(num_ranks)) as gateway,
        Client(gateway) as client,
    ):
        started = time.monotonic()
        session = await client.create(PROMPTS[0], num_blocks=NUM_BLOCKS, seed=seed)
        async with client.connect(session) as stream:
            run = await record(stream, path, started)
    return {**run, "stagger": stagger, "num_ranks": num_ranks, "seed": seed, "machine": machine()}


async def record(stream: Stream, path: Path, started: float) -> dict[str, Any]:
    """Ask for the switches, then save what comes."""
    for block, prompt in PROMPTS.items():
        if block:
            await stream.switch(prompt, at_block=block, request_id=f"block-{block}")
    times: list[float] = []
    receipts: list[dict[str, Any]] = []
    with tqdm(total=NUM_BLOCKS, unit="block", desc=path.name, file=sys.stderr) as bar:

        def note(event: Event, saved: Saved) -> None:
            if isinstance(event, Segment):
                times.append(time.monotonic() - started)
                bar.update()
            elif isinstance(event, PromptReceipt) and event.state == "APPLIED":
                receipts.append(
                    {
                        "request_id": event.request_id,
                        "first_block_touched": event.first_block_touched,
                        "first_block_full": event.first_block_full,
                    }
                )

        saved = await save(stream, path, note)
    return {
        "num_frames": saved.num_frames,
        "first_segment_s": round(times[0], 3),
        "fps": round((saved.num_frames - first_frame(1)) / (times[-1] - times[0]), 2),
        "prompt_switches": receipts,
    }


def read_video(path: Path) -> Frames:
    """All pictures of a video, uint8 [T, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


if __name__ == "__main__":
    main()
