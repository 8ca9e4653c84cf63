"""Tiny cards and models, and a Runner driven in-process: what several test modules share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade_core.attention.exchange import Exchange, SoloExchange, join_group
from cascade_core.config import InflightAttention, ModelCard, SwitchMode, TransformerConfig, make
from cascade_core.loras import Choice
from cascade_core.model import low_rank
from cascade_core.model.lora_bank import LoraBank
from cascade_core.model.model import CausalWanModel
from cascade_core.model.sampler import block_noise
from cascade_core.ranks.runner import Runner
from cascade_core.schedule import Shape, Timeline, Work, context_blocks, plan_tick, switch_prompt

CPU = torch.device("cpu")
STEPS = (1000, 750, 500, 250)
UNIPC_STEPS = (999, 749.25, 499.5, 249.75)
"""LongLive 2.0's: an even grid from 999 down to 0, which is not among them."""
SIDE = 32
"""Default frame side in pixels: latents of 4x4, so 2x2 patches."""

Switches = Mapping[int, tuple[int, SwitchMode]]
"""Before tick t: switch to this prompt, in this mode."""


def tiny_values(
    *,
    steps: Sequence[float] = STEPS,
    first_steps: Sequence[float] | None = None,
    solver: str = "renoise",
    image_start: str = "clip",
    block_frames: int = 3,
    window_blocks: int = 4,
    sink_blocks: int = 0,
    context_window_blocks: int | None = None,
    rope: str = "absolute",
    max_positions: int = 1024,
    shot_shift_frames: int | None = None,
    vae_factor: int = 8,
    **transformer: Any,
) -> dict[str, Any]:
    """The values of a tiny card, as they would stand in a TOML file; windows count in blocks."""
    window: dict[str, Any] = {
        "block_frames": block_frames,
        "window_frames": window_blocks * block_frames,
        "sink_frames": sink_blocks * block_frames,
        "rope": rope,
        "max_positions": max_positions,
    }
    if shot_shift_frames is not None:
        window["shot_shift_frames"] = shot_shift_frames
    if context_window_blocks is not None:
        window["context_window_frames"] = context_window_blocks * block_frames
    extra = {} if first_steps is None else {"first_steps": list(first_steps)}
    dims = {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "text_dim": 12, "text_len": 8}
    dims |= {"in_channels": 4, "freq_dim": 16}
    return {
        "name": "tiny",
        "title": "A test model",
        "licence": "Apache-2.0",
        "commercial_use": True,
        "source": "this repository",
        "transformer": dims | transformer,
        "image_start": image_start,
        "sampling": {"steps": list(steps), "solver": solver} | extra,
        "window": window,
        "video": {"width": SIDE, "height": SIDE, "vae_factor": vae_factor},
    }


def tiny_card(**values: Any) -> ModelCard:
    """A card by the arguments of `tiny_values`."""
    return make(ModelCard, tiny_values(**values))


def write_card(path: Path, **values: Any) -> Path:
    """The same card as a TOML file."""

    def lines(table: Mapping[str, Any]) -> list[str]:
        plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
        return [f"{key} = {toml(value)}" for key, value in plain.items()]

    def toml(value: object) -> str:
        value = list(value) if isinstance(value, tuple) else value
        return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')

    card = tiny_values(**values)
    tables = {key: value for key, value in card.items() if isinstance(value, dict)}
    text = lines(card) + [line for name, table in tables.items() for line in [f"[{name}]", *lines(table)]]
    path.write_text("\n".join(text) + "\n")
    return path


def tiny_model(card_or_config: ModelCard | TransformerConfig, seed: int = 0) -> CausalWanModel:
    """A model in which every parameter counts: no zero biases, norms or modulations."""
    is_card = isinstance(card_or_config, ModelCard)
    model = CausalWanModel(card_or_config.transformer if is_card else card_or_config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith("modulation"):
                parameter.copy_(0.4 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
    return model.eval().requires_grad_(False)


def tiny_bank(card: ModelCard, ranks: Sequence[int] = (3, 1, 4)) -> LoraBank:
    """One LoRA of each rank, all but the first without some of the layers' Linears."""
    dims, generator = card.transformer, torch.Generator().manual_seed(9)
    widths = low_rank.widths(dims)

    def pair(target: str, rank: int) -> tuple[Tensor, Tensor]:
        fan_in, fan_out = widths[target]
        a, b = (torch.randn(shape, generator=generator) for shape in ((rank, fan_in), (fan_out, rank)))
        return a / math.sqrt(fan_in), b / math.sqrt(rank)

    loras = [
        {
            target: low_rank.stack([pair(target, rank) for _ in range(dims.num_layers)], *widths[target])
            for at, target in enumerate(low_rank.TARGETS)
            if not number or at % (number + 1)
        }
        for number, rank in enumerate(ranks)
    ]
    return LoraBank(loras, widths, dims.num_layers)


def prompt_embedding(card: ModelCard, prompt: int) -> Tensor:
    """Embedding [num_tokens, text_dim] of an imagined prompt; shorter than text_len."""
    num_tokens = 1 + (prompt + 2) % card.transformer.text_len
    generator = torch.Generator().manual_seed(1000 + prompt)
    return torch.randn(num_tokens, card.transformer.text_dim, generator=generator)


def make_shape(
    card: ModelCard,
    stagger: int,
    num_ranks: int = 1,
    attention: InflightAttention = "bidirectional",
    set_back: int = 0,
    counts_behind: bool = False,
) -> Shape:
    sampling, window = card.sampling, card.window
    extra = sampling.num_extra_passes
    return Shape(sampling.num_passes, stagger, num_ranks, window, attention, set_back, counts_behind, extra)


def make_runner(
    card: ModelCard,
    stagger: int,
    attention: InflightAttention = "bidirectional",
    model: CausalWanModel | None = None,
    set_back: int = 0,
    counts_behind: bool = False,
    loras: LoraBank | None = None,
) -> Runner:
    """The only rank, in this process."""
    model = model or tiny_model(card)
    shape = make_shape(card, stagger, 1, attention, set_back, counts_behind)
    return Runner(model, card, shape, 0, SoloExchange(), None, loras)


@dataclass(frozen=True)
class Case:
    """One session of a tiny model, to be run on any number of ranks."""

    stagger: int
    attention: InflightAttention
    card_values: tuple[tuple[str, Any], ...]
    num_blocks: int
    switches: tuple[tuple[int, int, SwitchMode], ...] = ()
    """(tick, prompt, mode)."""
    start: int = 0
    """Above 0 the session is primed with made-up clean blocks."""
    set_back: int = 0
    counts_behind: bool = False
    choices: tuple[Choice, ...] = ()
    """LoRAs of `tiny_bank` by prompt; none: there is no bank."""
    first_frame: bool = False
    """Whether block 0 begins with a made-up clean frame."""

    def run(self, rank: int, num_ranks: int, exchange: Exchange) -> dict[int, Tensor]:
        """Clean latents of the blocks that live on this rank."""
        card = tiny_card(**dict(self.card_values))
        shape = make_shape(card, self.stagger, num_ranks, self.attention, self.set_back, self.counts_behind)
        bank = tiny_bank(card) if self.choices else None
        runner = Runner(tiny_model(card), card, shape, rank, exchange, None, bank)
        latent_shape = card.latent_shape(SIDE, SIDE)
        context = {
            block: block_noise(1, block, 0, latent_shape) for block in context_blocks(card.window, self.start)
        }
        primed = tuple(Work(block, shape.context_pass, 0) for block in context)
        timeline = Timeline(0, next_block=self.start, to_prime=primed)
        switches: Switches = {tick: (prompt, mode) for tick, prompt, mode in self.switches}
        end = self.start + self.num_blocks
        opening = {"timeline": timeline, "context": context, "num_prompts": 4, "choices": self.choices}
        first_frame = block_noise(2, 0, 0, (1, *latent_shape[1:])) if self.first_frame else None
        return run_blocks(runner, end, switches, **opening, first_frame=first_frame)


def run_rank(rank: int, num_ranks: int, folder: str, cases: Sequence[Case]) -> None:
    """A process of a real group: runs the cases and leaves its blocks in `folder`."""
    torch.set_num_threads(1)
    exchange = join_group(rank, num_ranks, f"{folder}/rendezvous", CPU, timeout_s=60)
    torch.save([case.run(rank, num_ranks, exchange) for case in cases], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@dataclass
class Drive:
    """One session of a Runner, tick by tick."""

    runner: Runner
    timeline: Timeline
    emitted: dict[int, Tensor] = field(default_factory=dict)
    """Clean latents [F, C, h, w] by block, of the blocks that live on this Runner's rank."""
    num_ticks: int = 0

    @classmethod
    def open(
        cls,
        runner: Runner,
        *,
        seed: int = 7,
        height: int = SIDE,
        width: int = SIDE,
        num_prompts: int = 3,
        timeline: Timeline | None = None,
        context: Mapping[int, Tensor] | None = None,
        choices: Sequence[Choice] = (),
        first_frame: Tensor | None = None,
    ) -> "Drive":
        """A session with `num_prompts` imagined prompts, numbered from 0; `choices`: LoRAs of the first."""
        timeline = timeline or Timeline(0)
        runner.open(timeline.session, seed, height, width, context or {}, first_frame)
        for prompt in range(num_prompts):
            choice = choices[prompt] if prompt < len(choices) else ()
            runner.add_prompt(timeline.session, prompt, prompt_embedding(runner.card, prompt), choice)
        return cls(runner, timeline)

    def switch(self, prompt: int, mode: SwitchMode) -> None:
        self.timeline, _ = switch_prompt(self.timeline, self.runner.shape, prompt, mode)

    def tick(self) -> None:
        plan, self.timeline = plan_tick(self.timeline, self.runner.shape)
        assert plan is not None
        latents = self.runner.tick(plan)
        is_mine = plan.emits is not None and plan.emits % self.runner.shape.num_ranks == self.runner.rank
        assert (latents is not None) == is_mine
        if latents is not None and plan.emits is not None:
            self.emitted[plan.emits] = latents.clone()
        self.num_ticks += 1

    def finish(self, num_blocks: int, switches: Switches | None = None) -> dict[int, Tensor]:
        """Run until `num_blocks` blocks in all have left the schedule, their context passes included."""
        self.timeline = replace(self.timeline, end_block=num_blocks)
        while not self.timeline.finished:
            if switches and self.num_ticks in switches:
                self.switch(*switches[self.num_ticks])
            self.tick()
        return self.emitted


def run_blocks(
    runner: Runner, num_blocks: int, switches: Switches | None = None, **opening: Any
) -> dict[int, Tensor]:
    """Clean latents [F, C, h, w] of the first `num_blocks` blocks of a new session."""
    drive = Drive.open(runner, **opening)
    try:
        return drive.finish(num_blocks, switches)
    finally:
        runner.close(drive.timeline.session)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    difference = (actual.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max())
