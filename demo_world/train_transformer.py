"""Training of the transformer and the text encoder, together, in the order in which the family came about."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from cascade_core.config import ModelCard
from cascade_core.ranks.loading import build_model
from cascade_core.weights.locate import locate
from demo_world.dataset import Dataset
from demo_world.steps import DemoModel, Kind, Steps
from demo_world.training import NumberFormat, Rates, train

NUM_STEPS = 9000
ROWS = 60
"""Blocks of a batch, noisy and clean: what a step costs."""
RATES = Rates(muon=4e-3, adamw=2e-3)
TUNING = 0.3
"""Share of the rates, for weights that have learned already."""


@dataclass(frozen=True)
class Phase:
    """A part of the run."""

    share: float
    kinds: tuple[Kind, ...]
    """One step of each in turn."""
    num_blocks: int
    """Blocks of a stretch."""


PHASES = (
    Phase(0.35, ("joint",), 4),
    Phase(0.4, ("independent", "sequential", "joint"), 5),
    Phase(0.25, ("independent", "rollout", "joint"), 7),
)
"""Joint steps go on to the end: a block that sees others behind it is what they alone show."""


def phase_at(progress: float, phases: tuple[Phase, ...] = PHASES) -> Phase:
    """The phase at a share of the run."""
    done = 0.0
    for phase in phases:
        done += phase.share / sum(phase.share for phase in phases)
        if progress < done:
            return phase
    return phases[-1]


def train_transformer(
    card: ModelCard,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    compiled: bool,
    seed: int = 0,
    num_steps: int = NUM_STEPS,
    start: Path | None = None,
    number_format: NumberFormat | None = None,
) -> DemoModel:
    """The trained model; its state is kept in `folder`.

    `start` is a checkpoint to go on from: the joint phase is left out, and the rates are lower.
    """
    torch.manual_seed(seed)
    model = DemoModel(card, tokenizer)
    if start:
        load_checkpoint(model, card, start)
    steps = Steps(model, card, dataset)
    phases = PHASES[1:] if start else PHASES

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        phase = phase_at(step / num_steps, phases)
        return steps.loss(phase.kinds[step % len(phase.kinds)], ROWS, phase.num_blocks, generator)

    train(
        model,
        loss,
        num_steps=num_steps,
        rates=RATES.times(TUNING) if start else RATES,
        state_file=folder / "transformer.pt",
        number_format=number_format,
        compile=model.blocks.compile if compiled else None,
    )
    return model


def load_checkpoint(model: DemoModel, card: ModelCard, folder: Path) -> None:
    """Weights of a checkpoint as `save_checkpoint` writes it. Raises WeightsError."""
    saved = build_model(card, locate(card, str(folder)), 0, torch.device("cpu"), torch.float32)
    model.blocks.model.load_state_dict(saved.state_dict())
    text = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    model.text_encoder.load_state_dict(text.state_dict())
