"""`python -m demo_world.resume`: what a viewer sees of a session that is opened again in the middle.

A session is opened again from the clean latents of its last window. Their keys and values came about with the
blocks before them in view, which are not there any more, so the video goes on a little differently. Here the
same videos go on from more latents than that, too, up to all of them.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cascade_core.attention.exchange import SoloExchange
from cascade_core.config import ModelCard, find_card
from cascade_core.machine import has_fast_bfloat16, machine
from cascade_core.media.vae import load_vae
from cascade_core.media.video_decoder import VideoDecoder
from cascade_core.model.text import TextEncoder, load_text_encoder
from cascade_core.ranks.loading import build_model
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import Shape, Timeline, Work, context_blocks, plan_tick
from cascade_core.weights.locate import locate, locate_part
from demo_world.arguments import Parser, check_files, run, whole
from demo_world.clips import WARM_UP, Take, first_frame
from demo_world.experiments import ATTRIBUTES, steady_takes
from demo_world.report import TITLES
from demo_world.score import judge, measure
from demo_world.statistics import mean, paired_shares, share
from demo_world.world import SIZE

RESUMED_AT, NUM_BLOCKS = 12, 22
"""The block that a session is opened again at, and where its video ends: 7.5 s later."""
UNINTERRUPTED = "uninterrupted"
CPU = torch.device("cpu")

Latents = Mapping[int, Tensor]
"""Clean ones by block, each [F, C, h, w]."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Player:
    """Runs sessions on one rank in this process: the engine takes no more context than it needs."""

    runner: Runner
    text: TextEncoder

    def play(self, take: Take, stagger: int, context: Latents, first_block: int = 0) -> Latents:
        """Blocks from `first_block` on; `context` may have more blocks than the session would ask for."""
        shape = replace(self.runner.shape, stagger=stagger)
        self.runner.open(0, take.seed, SIZE, SIZE, context)
        self.runner.add_prompt(0, 0, self.text.encode(take.prompts[0]).float())
        primed = tuple(Work(block, shape.context_pass, 0) for block in sorted(context))
        made = dict(self._run(Timeline(0, first_block, take.num_blocks, to_prime=primed), shape))
        self.runner.close(0)
        return made

    def _run(self, timeline: Timeline, shape: Shape) -> Iterator[tuple[int, Tensor]]:
        while not timeline.finished:
            plan, timeline = plan_tick(timeline, shape)
            assert plan
            latents = self.runner.tick(plan)
            if latents is not None and plan.emits is not None:
                yield plan.emits, latents.clone()


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m demo_world.resume", description=__doc__)
    add = parser.add_argument
    add("--json", type=Path, required=True, help="figures; the table goes beside it as .md")
    add("--clips", type=whole(1, 10_000), default=84, help="videos (default: 84)")
    add("--staggers", type=whole(1, 5), nargs="+", default=[1, 5], help="schedules (default: 1 5)")
    add("--checkpoint", metavar="FOLDER", help="as `demo_world.train --out` writes it (default: the demo's)")
    add("--threads", type=whole(1, 256), default=1, help="of this process (default: 1)")
    options = parser.parse_args(argv)
    run("demo_world.resume", lambda: resume(options))


def resume(options: argparse.Namespace) -> None:
    """Measure, and write everything. Raises CascadeError."""
    check_files(options.json, options.checkpoint)
    torch.set_num_threads(options.threads)
    results = compare(options)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    tables = render(results)
    options.json.with_suffix(".md").write_text(tables)
    print(tables)


@torch.inference_mode()
def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Play, open again, and sum up. Raises CascadeError."""
    card = find_card("demo")
    player = load_player(card, options.checkpoint)
    dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32  # as the product decodes
    decoder = load_vae(card, locate_part(card, options.checkpoint, "vae"), CPU, dtype)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "demo_world.resume", *sys.argv[1:]]),
        "machine": machine(),
        "context_blocks": {name: len(blocks) for name, blocks in contexts(card).items()},
    }
    takes = steady_takes(options.clips, NUM_BLOCKS)
    with tqdm(total=len(takes) * len(options.staggers), unit="video", file=sys.stderr) as bar:
        for stagger in options.staggers:
            rows = []
            for take in takes:
                rows.append(_resume(player, decoder, take, stagger, card))
                bar.update()
            results[f"stagger {stagger}"] = sum_up(rows)
    return results


def load_player(card: ModelCard, checkpoint: str | None = None) -> Player:
    """Raises WeightsError."""
    files = locate(card, checkpoint)
    model = build_model(card, files, 0, CPU, torch.float32)
    shape = Shape(card.sampling.num_passes, 1, 1, card.window)
    text = load_text_encoder(card, files, CPU, torch.float32)
    return Player(Runner(model, card, shape, 0, SoloExchange()), text)


def contexts(card: ModelCard) -> dict[str, Sequence[int]]:
    """The blocks that a session is opened again from, by what one may keep."""
    least = context_blocks(card.window, RESUMED_AT)
    return {
        "the window (as journalled)": least,
        "two windows": range(max(0, least[-1] + 1 - 2 * len(least)), RESUMED_AT),
        "everything": range(RESUMED_AT),
    }


def _resume(player: Player, decoder: VideoDecoder, take: Take, stagger: int, card: ModelCard) -> Row:
    """What is to be seen from the block on that the session is opened again at, in each way."""
    whole = player.play(take, stagger, {})
    row = {UNINTERRUPTED: _seen(decoder, take, whole, whole)}
    for name, blocks in contexts(card).items():
        context = {block: whole[block] for block in blocks}
        row[name] = _seen(decoder, take, player.play(take, stagger, context, RESUMED_AT), whole)
    return row


def _seen(decoder: VideoDecoder, take: Take, made: Latents, whole: Latents) -> Row:
    """The decoder stays when a stage is lost, so it goes on from the blocks before."""
    state, shown = decoder.open(), range(RESUMED_AT - WARM_UP, NUM_BLOCKS)
    latents = {**whole, **made}
    pictures = [decoder.decode(state, latents[block]).numpy() for block in shown]
    first = first_frame(WARM_UP)
    scores = judge(measure(np.concatenate(pictures)), take.scenes[0], first)
    difference = made[RESUMED_AT] - whole[RESUMED_AT]
    return {
        "right": scores.right(),
        "jump": scores.jump,
        "difference": float(difference.norm() / whole[RESUMED_AT].norm()),
    }


def sum_up(rows: Sequence[Row]) -> dict[str, Any]:
    """By way of going on: shares of videos that are right, jump, difference of the first block."""

    def compared(way: str, name: str) -> Row:
        here, there = ([row[each]["right"][name] for row in rows] for each in (way, UNINTERRUPTED))
        return share(here) | {"paired": paired_shares(here, there)}

    return {
        way: {name: mean([row[way][name] for row in rows]) for name in ("difference", "jump")}
        | {name: compared(way, name) for name in ATTRIBUTES}
        for way in rows[0]
    }


def render(results: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    info = results["machine"]
    head = [
        "goes on from",
        "blocks",
        "first block differs by",
        "jump (px)",
        *(TITLES.get(name, name) for name in ATTRIBUTES),
    ]
    parts = [
        "# A session that is opened again in the middle",
        f"`{results['command']}` · {info['processor']}, {info['cores']} cores · torch {info['torch']} · "
        f"{info['date']}",
        f"The demo model; opened again at block {RESUMED_AT}, seen to block {NUM_BLOCKS - 1}, in % of the "
        "videos that are right; mean of the norm of the difference from the uninterrupted video over its "
        "norm, in the first block's latents; mean of the largest step of the object beyond its speed.",
    ]
    for title, ways in results.items():
        if title.startswith("stagger "):
            counts = results["context_blocks"]
            rows = [[way, str(counts.get(way, "")), *_cells(row)] for way, row in ways.items()]
            lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
            parts += [f"## {title.capitalize()}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _cells(row: Row) -> list[str]:
    shares = [f"{100 * row[name]['share']:.1f}" for name in ATTRIBUTES]
    return [f"{row['difference']['mean']:.1e}", f"{row['jump']['mean']:.2f}", *shares]


if __name__ == "__main__":
    main()
