"""Published speeds against what the planner says of the same set-up: `published.toml`."""

import tomllib
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cascade_core.config import STRICT, ModelCard, Positive, find_card, make
from cascade_core.planning.gpus import Above, find_gpu
from cascade_core.planning.pipeline import measure
from cascade_core.planning.timing import Roofline
from cascade_core.planning.traces import Overhead, Overheads
from cascade_core.schedule import Shape


@dataclass(frozen=True, config=STRICT)
class Published:
    """One figure."""

    title: str
    source: str
    fps: Above
    model: str
    gpu: str
    elementwise_gb: Above
    """Of a pass."""
    num_kernels: Annotated[int, Field(ge=0)]
    """Of a pass; 0: replayed as one CUDA graph."""
    num_ranks: Positive = 1
    """Above 1: the full cascade, bidirectional."""
    window_frames: Positive | None = None
    """None: the card's."""
    num_passes: Positive | None = None
    """Passes of a block that were counted; None: all."""
    fixes: Literal["", "attention", "kernels", "Blackwell"] = ""
    """The constant that was chosen so that this figure is met; empty: none, so it is a prediction."""


@dataclass(frozen=True)
class Comparison:
    """A figure and what the planner says."""

    published: Published
    fps: float

    @property
    def deviation(self) -> float:
        """0.1: the planner is 10 % above."""
        return self.fps / self.published.fps - 1


@cache
def comparisons() -> tuple[Comparison, ...]:
    """All published figures, in the order of the file."""
    table = tomllib.loads((files(__package__) / "published.toml").read_text())
    figures = [make(Published, values) for values in table["figure"]]
    return tuple(Comparison(figure, planned_fps(figure)) for figure in figures)


def planned_fps(figure: Published) -> float:
    card = _card(figure)
    overhead = Overhead(1e9 * figure.elementwise_gb, figure.num_kernels)
    tokens = card.tokens_per_block(card.video.height, card.video.width)
    roofline = Roofline(card, find_gpu(figure.gpu), tokens, Overheads(overhead, {1: overhead}))
    num_passes = card.sampling.num_passes
    stagger = 1 if figure.num_ranks > 1 else num_passes
    shape = Shape(num_passes, stagger, figure.num_ranks, card.window)
    return 1e3 * card.num_frames(1) / measure(roofline, shape, figure.num_passes).block_ms


def _card(figure: Published) -> ModelCard:
    card = find_card(figure.model)
    if figure.window_frames is None:
        return card
    window = replace(card.window, window_frames=figure.window_frames, context_window_frames=None)
    return replace(card, window=window)
