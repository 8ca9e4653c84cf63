"""What a tick spends on noise: drawn in it, and drawn ahead by a thread.

python -m benchmarks.noise [--model MODEL] [--out FOLDER] [--repeats N]
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.folders import need_folder
from cascade_core.commands.bench import table
from cascade_core.config import find_card
from cascade_core.machine import machine
from cascade_core.model.sampler import block_noise
from cascade_core.ranks.noise import Name, NoiseThread, SessionNoise

SEED = 7
TIME = "ms of the thread that ticks"


def thread_ms(call: Callable[[], object]) -> float:
    """Processor time of this thread, to which a busy machine adds nothing."""
    started = time.thread_time()
    call()
    return 1e3 * (time.thread_time() - started)


def measure(shape: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """Medians over ticks in which a block starts: it takes the noise of its first pass and of its second."""
    noise = SessionNoise(NoiseThread(torch.device("cpu")), SEED, shape)
    in_tick, ahead = [], []
    for block in range(repeats):
        names = [(block, 0), (block, 1)]
        in_tick.append(thread_ms(partial(draw, names, shape)))
        asking_ms = thread_ms(partial(noise.expect, names))
        noise.wait()
        ahead.append(asking_ms + thread_ms(partial(take, noise, names)))
    return [
        {"noise is drawn": "in the tick", TIME: statistics.median(in_tick)},
        {"noise is drawn": "ahead", TIME: statistics.median(ahead)},
    ]


def draw(names: Sequence[Name], shape: tuple[int, ...]) -> None:
    for name in names:
        block_noise(SEED, *name, shape)


def take(noise: SessionNoise, names: Sequence[Name]) -> None:
    for name in names:
        noise.take(*name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.noise", description="Time the noise of a tick."
    )
    parser.add_argument("--model", default="self-forcing-1.3b", help="the card whose latents count")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the table")
    parser.add_argument("--repeats", type=int, default=100, metavar="N", help="ticks of each kind")
    options = parser.parse_args(arguments)
    need_folder(options.out)
    card = find_card(options.model)
    shape = card.latent_shape(card.video.height, card.video.width)
    command = "python -m benchmarks.noise " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    results: dict[str, Any] = {
        "command": command.strip(),
        "machine": machine(),
        "rows": measure(shape, options.repeats),
    }
    info = results["machine"]
    text = (
        f"# Noise of a tick\n\n`{command.strip()}` · {info['processor']}, {info['cores']} cores · torch "
        f"{info['torch']} · {info['date']}\n\nA block of {options.model} starts, {shape} floats; medians of "
        f"{options.repeats} ticks.\n\n{table(results['rows'])}\n"
    )
    (options.out / "noise.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "noise.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
