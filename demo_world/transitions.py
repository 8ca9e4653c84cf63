"""`python -m demo_world.transitions`: how colours go over from one prompt to the next, block by block.

The same videos with a switch from one colour to another: at once, and over more and more blocks, linearly and
along the arc between embeddings. Writes the figures as JSON, and a contact sheet beside them.
"""

import argparse
import asyncio
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cascade_core.config import EngineConfig, find_card, make
from cascade_core.engine import Engine, LatentBlock, PromptApplied, SessionRequest
from cascade_core.machine import machine
from cascade_core.media.vae import load_vae
from cascade_core.media.video_decoder import VideoDecoder
from cascade_core.prompts import Transition
from cascade_core.weights.locate import locate_part
from demo_world.arguments import Parser, check_files, run, whole
from demo_world.score import measure
from demo_world.sheets import contact_sheet
from demo_world.world import COLOURS, SHAPES, Frames, Scene, describe

SWITCHED_AT, NUM_BLOCKS = 5, 18
"""The block at whose start the prompt changes, and where a video ends."""
WAYS: Mapping[str, Transition | None] = {
    "at once": None,
    **{f"{how} {blocks}": Transition(blocks, how) for how in ("linear", "slerp") for blocks in (2, 4, 8)},
}
MIN_CONTRAST = 30.0
"""RGB distance from the background above which a pixel is the object's."""
SHEET_ROWS, SHEET_EVERY = 14, 6
CPU = torch.device("cpu")
Receipt = tuple[int, int | None, int]
"""First block touched, last mixed, first full."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m demo_world.transitions", description=__doc__)
    add = parser.add_argument
    add("--json", type=Path, required=True, help="figures; a contact sheet goes beside it as .png")
    add("--clips", type=whole(1, 1000), default=30, help="pairs of colours (default: 30)")
    add("--stagger", type=whole(1, 5), default=2, help="passes before the next block starts (default: 2)")
    add("--mode", choices=("immediate", "boundary", "recache"), default="immediate", help="of the switch")
    add("--checkpoint", metavar="FOLDER", help="as `demo_world.train --out` writes it (default: the demo's)")
    add("--threads", type=whole(1, 256), default=1, help="of the engine's rank (default: 1)")
    options = parser.parse_args(argv)
    run("demo_world.transitions", lambda: asyncio.run(compare(options)))


async def compare(options: argparse.Namespace) -> None:
    """Film, measure, and write everything. Raises CascadeError."""
    check_files(options.json, options.checkpoint)
    card = find_card("demo")
    decoder = load_vae(card, locate_part(card, options.checkpoint, "vae"), CPU, torch.float32)
    config = {"model": "demo", "weights": options.checkpoint, "stagger": options.stagger, "device": "cpu"}
    clips, shown = list(pairs(options.clips)), list[tuple[str, Frames]]()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    async with await Engine.start(
        make(EngineConfig, config | {"threads_per_rank": options.threads})
    ) as engine:
        with tqdm(total=len(clips) * len(WAYS), unit="video", file=sys.stderr) as bar:
            for seed, scenes in enumerate(clips):
                for name, transition in WAYS.items():
                    frames, receipt = await film(engine, decoder, scenes, seed, transition, options.mode)
                    rows[name].append(seen(frames, scenes) | {"receipt": receipt})
                    shown.append((f"{name}   {describe(scenes[0])} > {scenes[1].colour}", frames[-156:]))
                    bar.update()
    ways = {name: sum_up(some) for name, some in rows.items()}
    results = {
        "command": shlex.join(["python", "-m", "demo_world.transitions", *sys.argv[1:]]),
        "machine": machine(),
        "switched_at": SWITCHED_AT,
        "ways": ways,
    }
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    contact_sheet(shown[:SHEET_ROWS], options.json.with_suffix(".png"), SHEET_EVERY)
    for name, figures in ways.items():
        print(f"{name:9}", " ".join(f"{share:5.2f}" for share in figures["way_gone"]))


def pairs(count: int) -> Iterator[tuple[Scene, Scene]]:
    """Scenes that differ in colour alone; every pair of colours comes once before one comes again."""
    random = Random(5)
    colours = list(permutations(COLOURS, 2))
    random.shuffle(colours)
    for number in range(count):
        one, other = colours[number % len(colours)]
        shape = SHAPES[number % len(SHAPES)]
        yield Scene(one, shape, "right", "gray"), Scene(other, shape, "right", "gray")


async def film(
    engine: Engine,
    decoder: VideoDecoder,
    scenes: tuple[Scene, Scene],
    seed: int,
    transition: Transition | None,
    mode: Any,
) -> tuple[Frames, Receipt]:
    """A video's pictures, and its receipt."""
    prompts = {0: describe(scenes[0]), SWITCHED_AT: describe(scenes[1])}
    transitions = {SWITCHED_AT: transition} if transition else {}
    request = SessionRequest(prompts, transitions, seed=seed, num_blocks=NUM_BLOCKS, switch_mode=mode)
    state, pictures = decoder.open(), []
    receipt: Receipt = (0, None, 0)
    async for event in await engine.open(request):
        if isinstance(event, LatentBlock):
            with torch.inference_mode():
                pictures.append(decoder.decode(state, event.latents).numpy())
        if isinstance(event, PromptApplied):
            receipt = event.first_block_touched, event.last_block_mixed, event.first_block_full
    return np.concatenate(pictures), receipt


def seen(frames: Frames, scenes: tuple[Scene, Scene]) -> dict[str, Any]:
    """By block: how far the object's colour is on its way, 0 to 1, and in how many pictures it is as asked
    for before, or after."""
    one, other = (np.array(COLOURS[scene.colour], float) for scene in scenes)
    names = measure(frames).colours
    way = [
        float(np.dot(colour - one, other - one) / np.dot(other - one, other - one))
        for colour in map(object_colour, frames)
    ]
    blocks = [slice(max(0, 12 * block - 3), 12 * block + 9) for block in range(NUM_BLOCKS)]
    return {
        "way_gone": [float(np.nanmean(way[each])) for each in blocks],
        "named": [
            float(np.mean([name in (scenes[0].colour, scenes[1].colour) for name in names[each]]))
            for each in blocks
        ],
    }


def object_colour(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The median RGB of what stands out from the background; NaN where nothing does."""
    pixels = picture.reshape(-1, 3).astype(float)
    contrast = np.linalg.norm(pixels - np.median(pixels, axis=0), axis=1)
    mask = contrast > MIN_CONTRAST
    return np.median(pixels[mask], axis=0) if mask.any() else np.full(3, np.nan)


def sum_up(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the videos, by block."""
    gone = np.array([row["way_gone"] for row in rows])
    return {
        "receipt": list(rows[0]["receipt"]),
        "way_gone": [round(float(value), 3) for value in np.nanmean(gone, axis=0)],
        "largest_step": round(float(np.nanmean(np.nanmax(np.abs(np.diff(gone, axis=1)), axis=1))), 3),
        "named": [round(float(value), 3) for value in np.mean([row["named"] for row in rows], axis=0)],
    }


if __name__ == "__main__":
    main()
