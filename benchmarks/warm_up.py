"""How many latents bring a picture decoder's memory back after a loss: of any VAE, with a clip and no model.

python -m benchmarks.warm_up [--model MODEL] [--weights FOLDER] [--clip FILE] [--block-frames N] [--blocks N]

The clip is encoded to latents and decoded, once without a break, then opened again at each block after more
and more blocks of warm-up. What counts is the worst first block.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.folders import need_folder, write_whole
from cascade_core.commands.arguments import at_least
from cascade_core.commands.bench import table
from cascade_core.config import ModelCard, find_card
from cascade_core.errors import CascadeError
from cascade_core.machine import machine
from cascade_core.media.start.pictures import open_start
from cascade_core.media.start.start_file import StartBounds, StartFile, StartShape
from cascade_core.media.vae import WanVae, load_vae
from cascade_core.weights.locate import locate_part

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SEEN_DB = 50.0
"""From here on no difference is seen."""


def clip_pictures(card: ModelCard, block_frames: int, max_blocks: int, file: Path | None) -> Tensor:
    """uint8 [T, H, W, 3] of whole blocks; without a file the demo's world, with a switch."""
    if file is None:
        from demo_world.world import Scene, World

        scenes = (Scene("red", "circle", "left", "white"), Scene("green", "square", "right", "white"))
        world, num_frames = World(seed=7), 4 * block_frames * max_blocks - 3
        half = num_frames // 2
        parts = [
            world.frames(scene, count) for scene, count in zip(scenes, (half, num_frames - half), strict=True)
        ]
        return torch.from_numpy(np.concatenate(parts))
    video = card.video
    shape = StartShape(video.width, video.height, Fraction(video.fps), block_frames, max_blocks)
    start = open_start(StartFile("video", file.read_bytes()), shape, StartBounds())
    return torch.from_numpy(np.stack(list(start.pictures)))


def encoded(vae: WanVae, pictures: Tensor, block_frames: int) -> list[Tensor]:
    """Latents by block."""
    state = vae.open_encoder()
    first, rest = pictures[: 4 * block_frames - 3], pictures[4 * block_frames - 3 :]
    return [vae.encode(state, block) for block in (first, *torch.split(rest, 4 * block_frames))]


def decoded(vae: WanVae, latents: Sequence[Tensor], first: int, last: int) -> Tensor:
    """Pictures of block `last`, by a decoder that was opened at block `first`, as the service opens it."""
    state = vae.open()
    if first:
        vae.decode(state, latents[first][:1])
    blocks = [vae.decode(state, block) for block in latents[first : last + 1]]
    return blocks[-1]


def decibels(one: Tensor, other: Tensor) -> float:
    """PSNR; infinite for equal pictures."""
    error = (one.float() - other.float()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def measure(vae: WanVae, latents: Sequence[Tensor], max_warmup: int) -> list[float]:
    """By the number of blocks of warm-up, from 0: the worst first block in dB."""
    undisturbed = vae.open()
    whole = [vae.decode(undisturbed, block) for block in latents]
    return [
        min(
            decibels(decoded(vae, latents, start - num_warmup, start), whole[start])
            for start in range(num_warmup + 1, len(latents))
        )
        for num_warmup in range(min(max_warmup, len(latents) - 2) + 1)
    ]


def report(results: dict[str, Any]) -> str:
    info, rows = results["machine"], results["rows"]
    enough = next((row["blocks"] for row in rows if min(row[name] for name in DTYPES) >= SEEN_DB), None)
    verdict = "None of these is enough." if enough is None else f"Blocks that are enough in both: {enough}."
    command = f"`{results['command']}` · {info['processor']}, {info['cores']} cores"
    return (
        f"# Warm-up of a picture decoder\n\n{command} · torch {info['torch']} · {info['date']}\n\n"
        f"The VAE of {results['model']}, {results['num_blocks']} blocks of {results['block_frames']} latent "
        f"frames, {results['clip']}: the worst first block in dB PSNR from the decode without a break. From "
        f"{SEEN_DB:g} dB on no difference is seen. {verdict}\n\n{table(rows)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.warm_up", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--model", default="demo", help="card whose VAE it is")
    parser.add_argument("--weights", help="folder or file of the VAE; without: where the card says")
    parser.add_argument("--clip", type=Path, help="an MP4 of the card's kind; without: the demo's world")
    parser.add_argument(
        "--block-frames", type=at_least(1), help="latent frames of a block; without: the card's"
    )
    parser.add_argument("--blocks", type=at_least(2), default=12, help="of the clip at most")
    parser.add_argument("--max-warmup", type=at_least(0), default=4, metavar="BLOCKS")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the table")
    options = parser.parse_args(arguments)
    need_folder(options.out)
    card = find_card(options.model)
    block_frames = options.block_frames or card.window.block_frames
    try:
        path, cpu = locate_part(card, options.weights, "vae"), torch.device("cpu")
        vaes = {name: load_vae(card, path, cpu, dtype) for name, dtype in DTYPES.items()}
        pictures = clip_pictures(card, block_frames, options.blocks, options.clip)
        latents = encoded(vaes["float32"], pictures, block_frames)
    except (CascadeError, OSError) as error:
        sys.exit(f"benchmarks.warm_up: {error}")
    found = {name: measure(vae, latents, options.max_warmup) for name, vae in vaes.items()}
    rows = [
        {"blocks": number, "latent frames": number * block_frames}
        | {name: found[name][number] for name in DTYPES}
        for number in range(len(found["float32"]))
    ]
    command = "python -m benchmarks.warm_up " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    results = {
        "command": command.strip(),
        "machine": machine(),
        "model": card.name,
        "block_frames": block_frames,
        "num_blocks": len(latents),
        "clip": str(options.clip or "the demo's world with a switch"),
        "rows": rows,
    }
    name = f"warm-up-{card.name}-{block_frames}"
    write_whole(options.out / f"{name}.json", json.dumps(results, indent=2) + "\n")
    write_whole(options.out / f"{name}.md", report(results))
    print(report(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
