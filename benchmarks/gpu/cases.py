"""Which model is measured at which window, and whether it fits on this device."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from cascade_core.config import ModelCard, Quantize, find_card
from cascade_core.planning.memory import weights_bytes

GIB = 2**30
TRAINED_WINDOW_FRAMES = 21
MEMORY_SHARE = 0.85
"""Part of the free memory that weights and caches may take; the rest is for activations."""
Window = Literal["own", "trained", "both"]


@dataclass(frozen=True)
class Case:
    """What is measured together: a ratio means something only within one run."""

    name: str
    card: ModelCard


def make_cases(models: Sequence[str], window: Window = "both") -> list[Case]:
    """Each card at its own window; where that is shorter than 21 frames, at 21 as well or instead."""
    cases: list[Case] = []
    for model in models:
        card = find_card(model)
        is_short = card.window.window_frames < TRAINED_WINDOW_FRAMES
        if window != "trained" or not is_short:
            cases.append(Case(f"{model}, window {card.window.window_frames}", card))
        if window != "own" and is_short:
            wide = replace(
                card.window, window_frames=TRAINED_WINDOW_FRAMES, sink_frames=0, context_window_frames=None
            )
            cases.append(Case(f"{model} dims, window {TRAINED_WINDOW_FRAMES}", replace(card, window=wide)))
    return cases


def tiny_cases() -> list[Case]:
    card = find_card("demo")
    return [Case("demo, tiny", replace(card, video=replace(card.video, width=32, height=32)))]


def needed_bytes(card: ModelCard, quantize: Quantize) -> float:
    """Weights and one session, in bfloat16 but for what is quantized."""
    weights = weights_bytes(card.transformer, fp8=quantize == "fp8")
    return weights + card.session_bytes(card.video.height, card.video.width)


def fits(card: ModelCard, device: torch.device, quantize: Quantize) -> bool:
    """Whether the device has the memory; gives back what earlier cases left in the allocator."""
    if device.type != "cuda":
        return True
    gc.collect()  # compiled layers refer to themselves
    torch.cuda.empty_cache()
    return needed_bytes(card, quantize) <= MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
