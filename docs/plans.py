"""`make plans` renews what docs/production.md shows of the planner.

That is what the commands in its `console` blocks print, and the tables between the marks.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cascade_core.commands.listing import describe, size
from cascade_core.config import load_cards
from cascade_core.planning.plan import Pipeline, PlanRequest, make_plan

PATH = Path(__file__).with_name("production.md")
CONSOLE = re.compile(r"(?P<typed>```console\n\$ cascade-engine (?P<words>plan .*)\n)(?:.*\n)*?(?P<end>```\n)")
MARKED = re.compile(r"(<!-- make plans -->\n).*?(<!-- end of plans -->\n)", re.DOTALL)
MEMORY = re.compile(r"(<!-- make plans: memory -->\n).*?(<!-- end of memory -->\n)", re.DOTALL)
COLUMNS = "100"
GPUS = ("h100", "h200", "b200")
ROWS = (
    ("LongLive 1.3B, 480p", "longlive-1.3b", 0, 0),
    ("Self-Forcing 1.3B, 480p", "self-forcing-1.3b", 0, 0),
    ("Self-Forcing 1.3B, 720p", "self-forcing-1.3b", 1280, 720),
    ("LongLive 2.0 5B, 720p, 24 FPS", "longlive-2.0-5b", 0, 0),
    ("Krea 14B, 480p", "krea-14b", 0, 0),
    ("Krea 14B, 720p", "krea-14b", 1280, 720),
)
HEAD = (
    "| five GPUs | one block every, ms: one GPU / cascade | FPS in all: replicas / cascade "
    "| sessions at the model's FPS: replicas / cascade |\n| --- | --- | --- | --- |\n"
)
MEMORY_HEAD = (
    "| model | weights in bfloat16 | in FP8 | pictures | a session, on each rank |\n"
    "| --- | --- | --- | --- | --- |\n"
)


def renewed(text: str) -> str:
    """The document with what the planner says now."""
    text = CONSOLE.sub(lambda block: f"{block['typed']}{printed(block['words'])}{block['end']}", text)
    text = MEMORY.sub(lambda marks: f"{marks[1]}{MEMORY_HEAD}{''.join(memory_rows())}{marks[2]}", text)
    return MARKED.sub(lambda marks: f"{marks[1]}{HEAD}{''.join(rows())}{marks[2]}", text)


def printed(words: str) -> str:
    command = [sys.executable, "-m", "cascade_core.commands.cli", *shlex.split(words)]
    environment = os.environ | {"COLUMNS": COLUMNS}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def rows() -> Iterator[str]:
    for title, model, width, height in ROWS:
        for gpu in GPUS:
            alone, cascade, _ = make_plan(PlanRequest(model, gpu, width=width, height=height)).pipelines
            cells = (
                f"{alone.speed.block_ms:.0f} / {cascade.speed.block_ms:.0f}",
                f"{in_all(alone):.0f} / {in_all(cascade):.0f}",
                f"{alone.sessions} / {cascade.sessions}",
            )
            yield f"| {title}, {gpu.upper()} | {' | '.join(cells)} |\n"


def memory_rows() -> Iterator[str]:
    """The cards that have weights."""
    for card in load_cards().values():
        if card.has_weights:
            model = describe(card, None)
            parts = ("weights", "fp8_weights", "session")
            weights, fp8, session = (size(model[f"{part}_bytes"]) for part in parts)
            yield f"| {card.name} | {weights} | {fp8} | {model['width']}x{model['height']} | {session} |\n"


def in_all(pipeline: Pipeline) -> float:
    return pipeline.num_replicas * pipeline.fps


if __name__ == "__main__":
    PATH.write_text(renewed(PATH.read_text()))
