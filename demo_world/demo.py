"""`python -m demo_world.demo`: one video with two prompt switches, made as a cascade and sequentially.

Writes demo.mp4 (cascade), demo-sequential.mp4, demo.png (contact sheet) and demo.json (what was measured).
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm import tqdm

from cascade_core.config import EngineConfig, find_card, make
from cascade_core.errors import CascadeError
from cascade_core.generate import GenerateOptions, Progress, generate
from demo_world.sheets import contact_sheet, video_rows
from demo_world.world import FPS, Frames, block_frames

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
    except CascadeError as error:
        sys.exit(f"demo: {error}")


def demo(out: Path, num_ranks: int, seed: int) -> None:
    """Make both videos, the sheet and the figures. Raises CascadeError."""
    sequential = find_card("demo").sampling.num_passes
    figures = {
        "cascade": make_video(out / "demo.mp4", STAGGER, num_ranks, seed),
        "sequential": make_video(out / "demo-sequential.mp4", sequential, num_ranks, seed),
    }
    (out / "demo.json").write_text(json.dumps(figures, indent=2) + "\n")
    starts = {sum(map(block_frames, range(block))): prompt for block, prompt in PROMPTS.items()}
    rows = video_rows(read_video(out / "demo.mp4"), starts)
    contact_sheet(rows, out / "demo.png", SHEET_EVERY)
    print(f"{figures['cascade']['num_frames']} frames at {FPS} per second; frames made per second:")
    for name, run in figures.items():
        print(
            f"  {name:10}  {run['fps_denoise']:6.1f} denoising  {run['fps_with_decode']:6.1f} with decoding"
        )
    print(f"Look at {out / 'demo.mp4'} and {out / 'demo.png'}.")


def make_video(path: Path, stagger: int, num_ranks: int, seed: int) -> dict[str, Any]:
    """One run of the engine; what it measured."""
    engine = make(EngineConfig, {"model": "demo", "stagger": stagger, "num_ranks": num_ranks})
    switches = {block: prompt for block, prompt in PROMPTS.items() if block > 0}
    options = GenerateOptions(engine, PROMPTS[0], NUM_BLOCKS, path, switches=switches, seed=seed)
    with tqdm(total=NUM_BLOCKS, unit="block", desc=path.name, file=sys.stderr) as bar:

        def report(progress: Progress) -> None:
            bar.update(progress.num_blocks - bar.n)

        return asyncio.run(generate(options, report))


def read_video(path: Path) -> Frames:
    """All pictures of a video, uint8 [T, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


if __name__ == "__main__":
    main()
