"""Kernels and element-wise bytes of a pass, as this version's code was traced: `traces.json`.

`python -m benchmarks.trace --write` writes the file, at each card's own size. Element-wise traffic grows
with tokens, width and layers, and the number of kernels with layers: so other sizes and cards follow.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from cascade_core.config import ModelCard, load_cards

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Overhead:
    """What a rank's tick takes besides products and attention."""

    elementwise_bytes: float
    """Read and written by all other kernels."""
    num_kernels: float
    """Of every kind."""

    def __add__(self, other: "Overhead") -> "Overhead":
        return Overhead(
            self.elementwise_bytes + other.elementwise_bytes, self.num_kernels + other.num_kernels
        )

    def scaled(self, size: float, layers: float = 1.0) -> "Overhead":
        return Overhead(size * self.elementwise_bytes, layers * self.num_kernels)


@dataclass(frozen=True)
class Overheads:
    """Of one card, eager or compiled."""

    alone: Overhead
    """A rank with the only block in flight."""
    joint: Mapping[int, Overhead]
    """By the number of blocks on a rank, the costliest of its ticks while others are in flight."""

    def of_rank(self, num_blocks: int, is_joint: bool) -> Overhead:
        """Of a number of blocks that was not traced: from the next larger one, else from the largest."""
        if not is_joint:
            return self.alone
        traced = min((each for each in self.joint if each >= num_blocks), default=max(self.joint))
        return self.joint[traced].scaled(num_blocks / traced)


def find_overheads(card: ModelCard, tokens: int, compiled: bool, fp8: bool = False) -> Overheads:
    """Of a card at so many tokens a block; a card without a trace is scaled from the one most like it."""
    traced = nearest(card)
    known = load_cards()[traced]
    layers = card.transformer.num_layers / known.transformer.num_layers
    known_tokens = known.tokens_per_block(known.video.height, known.video.width)
    size = layers * tokens * card.transformer.dim / (known_tokens * known.transformer.dim)
    joint: dict[int, Overhead] = {}
    alone = Overhead(0.0, 0.0)
    for num_blocks, is_joint, overhead in traced_ticks(traced, compiled):
        if is_joint:
            joint[num_blocks] = costlier(joint.get(num_blocks, overhead), overhead)
        else:
            alone = costlier(alone, overhead)
    more = added_by_fp8(traced, compiled) if fp8 else Overhead(0.0, 0.0)
    scaled = {count: (each + more.scaled(count)).scaled(size, layers) for count, each in joint.items()}
    return Overheads((alone + more).scaled(size, layers), scaled)


def added_by_fp8(model: str, compiled: bool) -> Overhead:
    """To a tick of one block: its products' inputs are made FP8. Several blocks are as many times the bytes,
    in as many kernels."""

    def costliest(quantize: str) -> Overhead:
        found = Overhead(0.0, 0.0)
        for _, is_joint, overhead in traced_ticks(model, compiled, quantize):
            found = found if is_joint else costlier(found, overhead)
        return found

    return costliest("fp8") + costliest("none").scaled(-1.0, -1.0)


def costlier(one: Overhead, other: Overhead) -> Overhead:
    return Overhead(
        max(one.elementwise_bytes, other.elementwise_bytes), max(one.num_kernels, other.num_kernels)
    )


def traced_ticks(model: str, compiled: bool, quantize: str = "none") -> Iterator[tuple[int, bool, Overhead]]:
    """Blocks on the rank, whether others are in flight, and what its tick takes."""
    asked = {"model": model, "quantize": quantize}.items()
    spared = next(each for each in load_traces()["compiling_spares"] if asked <= each.items())
    for case in cases_of(model, quantize):
        is_joint = case["stagger"] == 1
        for tick in case["ticks"]:
            num_blocks = len(tick["passes"])
            kernels, moved = tick["kernels"], tick["elementwise_bytes"]
            if compiled:
                kernels -= spared["kernels"]
                moved -= num_blocks * spared["elementwise_bytes"]
            if num_blocks:
                yield num_blocks, is_joint, Overhead(moved, kernels)


def cases_of(model: str, quantize: str = "none") -> list[Row]:
    asked = {"model": model, "quantize": quantize}.items()
    return [case for case in load_traces()["cases"] if asked <= case.items()]


def nearest(card: ModelCard) -> str:
    """The traced card of this name, else the one whose width is most like it."""
    cards = load_cards()
    names: set[str] = {case["model"] for case in load_traces()["cases"]} & set(cards)
    if card.name in names:
        return card.name

    def distance(name: str) -> float:
        return abs(math.log(cards[name].transformer.dim / card.transformer.dim))

    return min(sorted(names), key=distance)


@dataclass(frozen=True)
class DecoderTrace:
    """A decoder's work for one latent frame at one size."""

    model: str
    """The card whose it is; others have the same VAE."""

    flop: float
    pixels: int


def find_decoder(name: str, card: ModelCard) -> DecoderTrace | None:
    """`vae` or `taehv` of the card's latents; None: another VAE was traced."""
    for row in load_traces()["decoders"]:
        if row["decoder"] == name and load_cards()[row["model"]].vae == card.vae:
            return DecoderTrace(row["model"], row["flop"], row["width"] * row["height"])
    return None


@cache
def load_traces() -> dict[str, Any]:
    """The file as it is."""
    text = (files(__package__) / "traces.json").read_text()
    traces: dict[str, Any] = json.loads(text)
    return traces
