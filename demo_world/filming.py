"""All clips of an evaluation that are still to be made, with the time that is left."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Never

from tqdm import tqdm

from cascade_core.config import find_card
from cascade_core.engine.engine import Engine
from demo_world import starts
from demo_world.clips import Clip, Take, engines, film
from demo_world.configurations import Configuration, engine_config
from demo_world.darkroom import Darkroom, darkroom
from demo_world.experiments import record
from demo_world.report import captioned
from demo_world.rows import Rows
from demo_world.sheets import contact_sheet

SHEET_ROWS = 12
SHEET_EVERY = {"steady": 4, "switch": 8, "drift": 8, "start": 4}
"""Pictures between two on a contact sheet."""

Batches = Mapping[str, Mapping[str, Sequence[Take]]]
"""Takes by configuration and batch."""


@dataclass(frozen=True)
class Filming:
    """Where clips come from, and where what is seen in them goes."""

    model: str
    weights: str | None
    num_processes: int
    """As many engines, and as many processes that decode: they keep so many cores busy."""
    rows: Rows
    sheets: Path

    async def run(self, configurations: Mapping[str, Configuration], batches: Batches) -> None:
        """Raises CascadeError; what was filmed by then is kept."""
        missing = {
            name: {batch: self._missing(name, batch, takes) for batch, takes in plans.items()}
            for name, plans in batches.items()
        }
        total = sum(_num_blocks(takes) for plans in batches.values() for takes in plans.values())
        left = sum(_num_blocks(takes.values()) for plans in missing.values() for takes in plans.values())
        if not left:
            return
        with (
            darkroom(find_card(self.model), self.weights, self.num_processes) as room,
            tqdm(total=total, initial=total - left, unit="block", file=sys.stderr, smoothing=0.02) as bar,
        ):
            for name, plans in missing.items():
                if any(plans.values()):
                    config = engine_config(self.model, self.weights, configurations[name])
                    async with engines(config, self.num_processes) as running:
                        for batch, takes in plans.items():
                            bar.set_description(f"{name}, {batch}")
                            await self._film(running, room, name, batch, takes, bar)

    async def _film(
        self,
        running: Sequence[Engine],
        room: Darkroom,
        name: str,
        batch: str,
        takes: Mapping[int, Take],
        bar: "tqdm[Never]",
    ) -> None:
        seen: dict[int, Clip] = {}

        def keep(number: int, clip: Clip) -> None:
            row = starts.record(clip) if clip.take.given else record(clip)
            self.rows.add(name, batch, number, row)
            bar.update(clip.take.num_blocks)
            if number < SHEET_ROWS:
                seen[number] = clip

        await film(running, room, takes, SHEET_ROWS, keep)
        if seen:
            every = SHEET_EVERY[batch.partition(" ")[0]]
            rows = captioned(seen[number] for number in sorted(seen))
            contact_sheet(rows, self._sheet(name, batch), every, f"{name}, {batch}")

    def _missing(self, name: str, batch: str, takes: Sequence[Take]) -> dict[int, Take]:
        """By number; those of the contact sheet all or none."""
        done = set(self.rows.of(name, batch))
        shown = set(range(min(SHEET_ROWS, len(takes))))
        if not (shown <= done and self._sheet(name, batch).exists()):
            done -= shown
        return {number: take for number, take in enumerate(takes) if number not in done}

    def _sheet(self, name: str, batch: str) -> Path:
        return self.sheets / f"{name} {batch}.png".replace(" ", "-")


def _num_blocks(takes: Iterable[Take]) -> int:
    return sum(take.num_blocks for take in takes)
