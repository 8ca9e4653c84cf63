"""The Runner against a plain restatement of the algorithm: no cache, explicit masks, one process.

The restatement is written from the design, not from the Runner. It keeps nothing but latents and a record
of every context pass (which clean block, under which prompt, what it saw), and at every tick computes all
of these and the blocks in flight anew, layer by layer, in float64, under one boolean mask.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from diffusers import UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cascade_core.attention.attention import attend_partial, merge
from cascade_core.attention.kv_cache import KvCache
from cascade_core.attention.rope import RotaryTable
from cascade_core.config import EngineConfig, InflightAttention, ModelCard, SwitchMode, make
from cascade_core.model.model import CausalWanModel, Conditioning
from cascade_core.model.sampler import block_noise, clean_estimate, pass_sigmas, pass_timesteps, renoise
from cascade_core.request import SessionRequest, check_request, first_timeline
from cascade_core.schedule import Timeline, Work, context_blocks
from tests.support import (
    CPU,
    SIDE,
    STEPS,
    UNIPC_STEPS,
    Switches,
    make_runner,
    prompt_embedding,
    relative_error,
    run_blocks,
    tiny_card,
    tiny_model,
)

SEED = 7
TOLERANCE = 1e-5
"""What is asked for is 1e-4; what float32 against float64 gives is a few 1e-7."""


@dataclass
class Item:
    """One block at one timestep in a joint forward."""

    block: int
    latents: Tensor
    """[F, C, h, w], float64."""
    timesteps: list[float]
    """Of each frame."""
    prompt: int
    oldest: int
    """First block of its window."""
    pinned: int | None = None
    """First block of the shot before it or its own, after a cut, where its window has left it behind."""
    sees: list["Item"] = field(default_factory=list)
    """Whose tokens it attends to, itself included."""


@dataclass
class InFlight:
    block: int
    prompt: int
    latents: Tensor
    num_done: int = 0
    scheduler: UniPCMultistepScheduler | None = None


class Restatement:
    """Block Cascading with a sink and a window, slowly."""

    def __init__(
        self,
        model: CausalWanModel,
        card: ModelCard,
        stagger: int,
        attention: InflightAttention,
        set_back: int = 0,
        counts_behind: bool = False,
    ) -> None:
        self.counts_behind = counts_behind
        self.weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
        self.card, self.stagger, self.attention, self.set_back = card, stagger, attention, set_back
        window = card.window
        self.frames = window.block_frames
        self.sink = window.sink_frames // self.frames
        self.window = window.window_frames // self.frames
        self.context_window = (window.context_window_frames or window.window_frames) // self.frames
        self.num_passes = len(card.sampling.steps) + 1
        self.first_frame: Tensor | None = None
        self.cuts: list[int] = []
        self.record: list[Item] = []
        """Every context pass there ever was; its keys and values follow from it alone."""
        self.clean: dict[int, Item] = {}
        """The context pass that counts for each clean block now."""
        self.latents: dict[int, Tensor] = {}

    def sigmas(self, block: int) -> list[float]:
        """Noise levels of a block's passes."""
        sampling = self.card.sampling
        steps = sampling.first_steps if block == 0 and sampling.first_steps else sampling.steps
        shifted = [sampling.shift * s / (1000 + (sampling.shift - 1) * s) for s in steps]
        return [*shifted, sampling.context_noise / 1000]

    def timesteps(self, block: int) -> list[float]:
        exact = [1000 * sigma for sigma in self.sigmas(block)]
        return [float(int(t)) for t in exact] if self.card.sampling.solver == "unipc" else exact

    def is_context(self, block: int, num_done: int) -> bool:
        return num_done == len(self.sigmas(block)) - 1

    @torch.inference_mode()
    def generate(
        self,
        num_blocks: int,
        switches: Switches | None = None,
        start: int = 0,
        context: Mapping[int, tuple[Tensor, int]] | None = None,
    ) -> dict[int, Tensor]:
        """Clean latents by block; `context` gives clean blocks to prime with and their prompts."""
        if context:
            self.encode({block: (latents.double(), prompt) for block, (latents, prompt) in context.items()})
        in_flight: list[InFlight] = []
        next_block, prompt, tick, recache, settled_from = start, 0, 0, False, 0
        while in_flight or next_block < num_blocks:
            if switches and tick in switches:
                prompt, mode = switches[tick]
                if mode == "immediate":
                    kept, settled_from = self.go_back(in_flight, settled_from)
                    next_block -= len(in_flight) - len(kept)
                    in_flight = kept
                    for flying in in_flight:
                        if not self.is_context(flying.block, flying.num_done):
                            flying.prompt = prompt
                recache |= mode == "recache"
                if mode == "cut" and next_block and next_block not in self.cuts:
                    self.cuts.append(next_block)
            tick += 1
            if recache and not in_flight:
                recache = False
                newest = [b for b in range(next_block - self.sink - self.window, next_block) if b >= 0]
                if newest:
                    self.encode_again(newest, prompt)
                    continue
            may_start = not in_flight or self.num_left(in_flight[-1]) <= self.num_passes - self.stagger
            if may_start and not recache and next_block < num_blocks:
                in_flight.append(InFlight(next_block, prompt, self.noise(next_block, 0)))
                next_block += 1
            self.tick(in_flight)
            in_flight = [flying for flying in in_flight if self.num_left(flying)]
        return self.latents

    def num_left(self, flying: InFlight) -> int:
        return len(self.sigmas(flying.block)) - flying.num_done

    def go_back(self, in_flight: list[InFlight], settled_from: int) -> tuple[list[InFlight], int]:
        """What stays in flight at a switch, made noisier; and the first block that may be set back next."""
        denoising = [flying for flying in in_flight if not self.is_context(flying.block, flying.num_done)]
        if not self.set_back or not denoising or denoising[0].block < settled_from:
            return in_flight, settled_from
        settled_from = denoising[-1].block + 1
        for flying in denoising:
            sigmas = self.sigmas(flying.block)
            flying.num_done, before = flying.num_done - self.set_back, sigmas[flying.num_done]
            flying.scheduler = None
            if flying.num_done == 0:
                flying.latents = self.noise(flying.block, 0)
            elif flying.num_done > 0:
                sigma = sigmas[flying.num_done]
                signal = (1 - sigma) / (1 - before) * flying.latents  # less of x0, and of the noise in it
                more = math.sqrt(sigma**2 - ((1 - sigma) / (1 - before) * before) ** 2)
                flying.latents = signal + more * self.noise(flying.block, len(sigmas) + flying.num_done)
        return [flying for flying in in_flight if flying.num_done >= 0], settled_from

    def tick(self, in_flight: list[InFlight]) -> None:
        """One joint forward; every block in flight makes its next pass."""
        for flying in in_flight:
            flying.latents = self.with_first_frame(flying.block, flying.latents)
        items = [self.item(f.block, f.latents, f.num_done, f.prompt) for f in in_flight]
        for item, flying in zip(items, in_flight, strict=True):
            is_context = self.is_context(flying.block, flying.num_done)
            bidirectional = self.attention == "bidirectional" and not is_context
            behind = [other for other in items if other.block > item.block and bidirectional]
            if self.counts_behind and not is_context:
                behind = behind[: max(0, self.window - (2 if self.pinned(item.block) is None else 3))]
                item.oldest += len(behind)
            self.pin(item)
            before = [*self.clean.values(), *(other for other in items if other.block <= item.block)]
            item.sees = [other for other in before if self.in_reach(other.block, item)] + behind
        velocities = self.forward([*self.record, *items])[len(self.record) :]
        for item, flying, velocity in zip(items, in_flight, velocities, strict=True):
            if self.is_context(flying.block, flying.num_done):
                self.record.append(item)
                self.clean[item.block] = item
            else:
                flying.latents = self.step(flying, item.latents, velocity)
                if self.is_context(flying.block, flying.num_done + 1):
                    flying.latents = self.with_first_frame(flying.block, flying.latents)
                    self.latents[item.block] = flying.latents
            flying.num_done += 1

    def step(self, flying: InFlight, latents: Tensor, velocity: Tensor) -> Tensor:
        """What the block's next pass is given, or the clean block."""
        sigmas, following = self.sigmas(flying.block), flying.num_done + 1
        if self.card.sampling.solver == "unipc":
            flying.scheduler = flying.scheduler or unipc(sigmas[:-1], flying.num_done)
            timestep = flying.scheduler.timesteps[flying.num_done]
            return flying.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        clean = latents - sigmas[flying.num_done] * velocity
        if self.is_context(flying.block, following):
            return clean
        return (1 - sigmas[following]) * clean + sigmas[following] * self.noise(flying.block, following)

    def with_first_frame(self, block: int, latents: Tensor) -> Tensor:
        if block or self.first_frame is None:
            return latents
        return torch.cat([self.first_frame.double(), latents[1:]])

    def encode(self, blocks: Mapping[int, tuple[Tensor, int]]) -> None:
        """Joint context passes of clean blocks under a causal mask among themselves."""
        items = [
            self.item(block, latents, len(self.sigmas(block)) - 1, prompt)
            for block, (latents, prompt) in sorted(blocks.items())
        ]
        for item in items:
            self.pin(item)
            before = [other for other in items if other.block <= item.block]
            item.sees = [other for other in before if self.in_reach(other.block, item)]
            self.latents[item.block] = item.latents
        self.record += items
        self.clean = {item.block: item for item in items}

    def encode_again(self, blocks: list[int], prompt: int) -> None:
        """LongLive's recache: all see the old sink and, unmasked, what is encoded anew but for its oldest
        blocks, where the sink and what is pinned stand; what is whole in view replaces the sink, too."""
        items = [
            self.item(block, self.latents[block], len(self.sigmas(block)) - 1, prompt) for block in blocks
        ]
        is_whole = blocks[0] == 0
        sink = {} if is_whole else {block: item for block, item in self.clean.items() if block < self.sink}
        kept = items if is_whole else items[self.sink :]
        pinned = self.pinned(blocks[-1] + 1)
        shots = {block: item for block, item in self.clean.items() if block in self.cuts}
        first = []
        if pinned is not None and pinned < kept[0].block:
            first, kept = [self.clean[pinned]], kept[1:]
        for item in items:
            item.oldest = blocks[0] + self.sink + len(first)
            item.pinned = pinned if first else None
            item.sees = [*sink.values(), *first, *kept]
        self.record += items
        self.clean = sink | shots | {item.block: item for item in kept}

    def in_reach(self, block: int, item: Item) -> bool:
        return block < self.sink or block >= item.oldest or block == item.pinned

    def pinned(self, block: int) -> int | None:
        return max((cut for cut in self.cuts if self.sink <= cut < block), default=None)

    def pin(self, item: Item) -> None:
        """A shot's first block that leaves the window takes the place of its oldest."""
        pinned = self.pinned(item.block)
        if pinned is not None and pinned < item.oldest:
            item.pinned, item.oldest = pinned, item.oldest + 1

    def item(self, block: int, latents: Tensor, num_done: int, prompt: int) -> Item:
        is_context = self.is_context(block, num_done)
        reach = self.context_window if is_context else self.window
        timesteps = [self.timesteps(block)[num_done]] * self.frames
        if block == 0 and self.first_frame is not None and not is_context:
            timesteps[0] = 0.0
        return Item(block, latents, timesteps, prompt, block - reach + 1)

    def noise(self, block: int, pass_index: int) -> Tensor:
        return block_noise(SEED, block, pass_index, self.card.latent_shape(self.height, self.width)).double()

    height = width = SIDE

    # The network.

    def forward(self, items: list[Item]) -> list[Tensor]:
        """Velocity [F, C, h, w] of every item; T is all their tokens."""
        config, rows = self.card.transformer, self.height // self.card.video.size_multiple
        per_block = self.card.tokens_per_block(self.height, self.width)
        owner = torch.arange(len(items)).repeat_interleave(per_block)  # [T]
        index = {id(item): number for number, item in enumerate(items)}
        block_mask = torch.zeros(len(items), len(items), dtype=torch.bool)
        for number, item in enumerate(items):
            block_mask[number, [index[id(seen)] for seen in item.sees]] = True
        mask = block_mask[owner][:, owner]  # [T, T], query by key
        timesteps = [timestep for item in items for timestep in item.timesteps]
        times = {timestep: self.embed_time(timestep) for timestep in set(timesteps)}
        per_frame = torch.stack([times[timestep] for timestep in timesteps])
        time = per_frame.repeat_interleave(per_block // self.frames, 0)  # [T, dim]
        modulation = self.linear("time_projection.1", F.silu(time)).unflatten(1, (6, -1))  # [T, 6, dim]
        texts = {prompt: self.embed_text(prompt) for prompt in {item.prompt for item in items}}
        turns = [self.turns(item, items) for item in items]
        x = torch.cat([self.patchify(item.latents) for item in items])  # [T, dim]
        for layer in range(config.num_layers):
            name = f"blocks.{layer}"
            parts = (modulation + self.weights[f"{name}.modulation"]).unbind(1)
            shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = parts
            attended = self.self_attention(
                f"{name}.self_attn", self.norm(x) * (1 + scale) + shift, turns, mask
            )
            x = x + gate * attended
            hidden = self.norm(x) * self.weights[f"{name}.norm3.weight"] + self.weights[f"{name}.norm3.bias"]
            x = x + torch.cat(
                [
                    self.cross_attention(f"{name}.cross_attn", hidden[owner == number], texts[item.prompt])
                    for number, item in enumerate(items)
                ]
            )
            hidden = self.norm(x) * (1 + ffn_scale) + ffn_shift
            hidden = F.gelu(self.linear(f"{name}.ffn.0", hidden), approximate="tanh")
            x = x + ffn_gate * self.linear(f"{name}.ffn.2", hidden)
        shift, scale = (self.weights["head.modulation"] + time[:, None]).unbind(1)
        x = self.linear("head.head", self.norm(x) * (1 + scale) + shift)  # [T, 1 * 2 * 2 * C]
        return [self.unpatchify(x[owner == number], rows) for number in range(len(items))]

    def turns(self, reader: Item, items: list[Item]) -> tuple[Tensor, Tensor]:
        """Of all keys and of its own queries: where a key stands depends on who reads it."""
        places = [self.placed(other.block, reader, other.block < self.sink) for other in items]
        return torch.cat([self.turn(at) for at in places]), self.turn(self.placed(reader.block, reader))

    def self_attention(
        self, name: str, x: Tensor, turns: list[tuple[Tensor, Tensor]], mask: Tensor
    ) -> Tensor:
        config = self.card.transformer
        query = self.rms(self.linear(f"{name}.q", x), f"{name}.norm_q")
        key = self.rms(self.linear(f"{name}.k", x), f"{name}.norm_k")
        split = (len(turns), -1, config.num_heads, config.head_dim)
        query, key, value = (part.view(split) for part in (query, key, self.linear(f"{name}.v", x)))
        outputs = []
        for number, (of_keys, of_own) in enumerate(turns):
            turned = rotate(key.flatten(0, 1), of_keys)  # [T, H, D]
            own = rotate(query[number], of_own)  # [L, H, D]
            scores = torch.einsum("lhd,shd->hls", own, turned) / math.sqrt(config.head_dim)
            rows = mask.view(len(turns), -1, mask.shape[1])[number]
            weights = scores.masked_fill(~rows, -math.inf).softmax(-1)
            outputs.append(torch.einsum("hls,shd->lhd", weights, value.flatten(0, 1)).flatten(1))
        return self.linear(f"{name}.o", torch.cat(outputs))

    def cross_attention(self, name: str, x: Tensor, text: Tensor) -> Tensor:
        config = self.card.transformer
        query = self.rms(self.linear(f"{name}.q", x), f"{name}.norm_q")
        key = self.rms(self.linear(f"{name}.k", text), f"{name}.norm_k")
        heads = (-1, config.num_heads, config.head_dim)
        query, key, value = (part.view(heads) for part in (query, key, self.linear(f"{name}.v", text)))
        scores = torch.einsum("lhd,shd->hls", query, key) / math.sqrt(config.head_dim)
        attended = torch.einsum("hls,shd->lhd", scores.softmax(-1), value).flatten(1)
        return self.linear(f"{name}.o", attended)

    def placed(self, block: int, reader: Item, is_sink: bool = False) -> int:
        """The frame position at which a reader meets a block.

        With `rope = window` positions start anew at every reader: the sink at 0, right behind it what is
        pinned and the window; before the window has left the sink behind, that is where they stand anyway.
        """
        if self.card.window.rope == "absolute":
            num_cuts = sum(cut <= block for cut in self.cuts)
            return block * self.frames + num_cuts * (self.card.window.shot_shift_frames or 0)
        front = self.sink + (reader.pinned is not None)
        if block == reader.pinned:
            return self.sink * self.frames
        if reader.oldest <= front or is_sink:
            return block * self.frames
        return (front + block - reader.oldest) * self.frames

    def turn(self, first: int) -> Tensor:
        """Of a block that is met at this frame, [L, 1, D / 2]."""
        token = 2 * self.card.video.vae_factor
        sides = self.frames, self.height // token, self.width // token
        return turn(first, sides, self.card.transformer.head_dim)

    def embed_time(self, timestep: float) -> Tensor:
        half = self.card.transformer.freq_dim // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / half)
        angles = timestep * frequencies
        embedded = torch.cat([angles.cos(), angles.sin()])
        return self.linear("time_embedding.2", F.silu(self.linear("time_embedding.0", embedded)))

    def embed_text(self, prompt: int) -> Tensor:
        config = self.card.transformer
        padded = torch.zeros(config.text_len, config.text_dim, dtype=torch.float64)
        tokens = prompt_embedding(self.card, prompt)
        padded[: len(tokens)] = tokens
        hidden = F.gelu(self.linear("text_embedding.0", padded), approximate="tanh")
        return self.linear("text_embedding.2", hidden)

    def patchify(self, latents: Tensor) -> Tensor:
        """[F, C, h, w] to tokens [L, dim]."""
        frames, channels, height, width = latents.shape
        patches = latents.view(frames, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        weight = self.weights["patch_embedding.weight"].flatten(1)
        return patches.reshape(-1, channels * 4) @ weight.T + self.weights["patch_embedding.bias"]

    def unpatchify(self, x: Tensor, rows: int) -> Tensor:
        tokens = x.view(self.frames, rows, -1, 2, 2, self.card.transformer.in_channels)
        return tokens.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + self.card.transformer.eps).sqrt()

    def rms(self, x: Tensor, name: str) -> Tensor:
        size = (x.square().mean(-1, keepdim=True) + self.card.transformer.eps).sqrt()
        return x / size * self.weights[f"{name}.weight"]


def unipc(sigmas: list[float], begin: int) -> UniPCMultistepScheduler:
    """diffusers' solver at these noise levels; `begin`: the pass that a block was set back to."""
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler.set_timesteps(len(sigmas))
    scheduler.set_begin_index(begin)
    scheduler.sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float64)
    return scheduler


@cache
def turn(first: int, sides: tuple[int, int, int], head_dim: int) -> Tensor:
    """By (frame, row, column) of every token, as complex numbers."""
    frames, rows, columns = (torch.arange(side) for side in sides)
    positions = torch.cartesian_prod(first + frames, rows, columns)  # [L, 3]
    half, side = head_dim // 2, head_dim // 6
    angles = [
        positions[:, axis, None] * 10000.0 ** (-torch.arange(width, dtype=torch.float64) / width)
        for axis, width in enumerate((half - 2 * side, side, side))
    ]
    return torch.exp(1j * torch.cat(angles, dim=1))[:, None]


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary embedding of x [L, H, D]."""
    pairs = torch.view_as_complex(x.contiguous().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2)


def check(
    card: ModelCard,
    stagger: int,
    attention: InflightAttention,
    num_blocks: int,
    switches: Switches | None = None,
    set_back: int = 0,
    counts_behind: bool = False,
    height: int = SIDE,
    width: int = SIDE,
    first_frame: Tensor | None = None,
) -> None:
    model = tiny_model(card, seed=stagger)
    restatement = Restatement(model, card, stagger, attention, set_back, counts_behind)
    restatement.height, restatement.width, restatement.first_frame = height, width, first_frame
    expected = restatement.generate(num_blocks, switches)
    runner = make_runner(card, stagger, attention, model, set_back, counts_behind)
    opening = {"seed": SEED, "num_prompts": 4, "height": height, "width": width}
    opening |= {"first_frame": first_frame}
    compare(run_blocks(runner, num_blocks, switches, **opening), expected, range(num_blocks))


def compare(actual: Mapping[int, Tensor], expected: Mapping[int, Tensor], blocks: Iterable[int]) -> None:
    assert sorted(actual) == list(blocks)
    errors = {block: relative_error(actual[block], expected[block]) for block in blocks}
    assert max(errors.values()) < TOLERANCE, errors


ATTENTIONS: tuple[InflightAttention, ...] = ("bidirectional", "causal")


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("rope", "sink_blocks"), [("absolute", 0), ("absolute", 1), ("window", 1)])
@pytest.mark.parametrize("stagger", [1, pytest.param(3, marks=pytest.mark.slow), 5])
def test_cascade(stagger: int, sink_blocks: int, rope: str, attention: InflightAttention) -> None:
    """Sessions longer than the window."""
    check(tiny_card(window_blocks=3, sink_blocks=sink_blocks, rope=rope), stagger, attention, 7)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    ("rope", "window_blocks", "sink_blocks"),
    [
        *(("absolute", window, sink) for window, sink in ((1, 0), (1, 1), (2, 0), (2, 1))),
        *(("window", window, sink) for window, sink in ((1, 0), (1, 1), (2, 1), (2, 2), (3, 3))),
    ],
)
def test_window_smaller_than_what_is_in_flight(
    rope: str, window_blocks: int, sink_blocks: int, attention: InflightAttention
) -> None:
    card = tiny_card(window_blocks=window_blocks, sink_blocks=sink_blocks, rope=rope)
    check(card, 1, attention, 8)


@pytest.mark.parametrize(("window_blocks", "stagger"), [(1, 1), (2, 1), (3, 1), (6, 1), (4, 2)])
@pytest.mark.parametrize(("rope", "sink_blocks"), [("absolute", 0), ("window", 1)])
def test_a_window_that_counts_the_blocks_behind(
    rope: str, sink_blocks: int, window_blocks: int, stagger: int
) -> None:
    card = tiny_card(window_blocks=window_blocks, sink_blocks=sink_blocks, rope=rope)
    check(card, stagger, "bidirectional", 8, {9: (1, "recache")}, counts_behind=True)


@pytest.mark.parametrize("stagger", [1, pytest.param(2, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize(
    ("context_window_blocks", "sink_blocks", "rope"),
    [(1, 0, "absolute"), (1, 1, "absolute"), (1, 1, "window"), (2, 1, "window")],
)
def test_a_context_pass_with_a_window_of_its_own(
    context_window_blocks: int, sink_blocks: int, rope: str, stagger: int
) -> None:
    """Krea's way against drift."""
    card = tiny_card(
        window_blocks=3, sink_blocks=sink_blocks, context_window_blocks=context_window_blocks, rope=rope
    )
    check(card, stagger, "bidirectional", 7)


@pytest.mark.parametrize("mode", ["immediate", "boundary", "recache"])
@pytest.mark.parametrize("stagger", [1, pytest.param(2, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize(
    ("attention", "rope"), [("bidirectional", "absolute"), ("bidirectional", "window"), ("causal", "window")]
)
def test_prompt_switches(mode: SwitchMode, stagger: int, attention: InflightAttention, rope: str) -> None:
    """One while the sink is still in the window, one after it was left behind, in the midst of blocks."""
    card = tiny_card(window_blocks=3, sink_blocks=1, rope=rope)
    middle = stagger * 5 + 2
    check(card, stagger, attention, 8, {stagger * 2 + 1: (1, mode), middle: (2, mode)})


@pytest.mark.parametrize(
    ("rope", "stagger", "attention", "counts_behind"),
    [
        ("absolute", 1, "bidirectional", False),
        ("absolute", 5, "bidirectional", False),
        ("window", 1, "bidirectional", True),
        ("window", 1, "causal", False),
        ("window", 2, "bidirectional", False),
        ("window", 5, "bidirectional", False),
    ],
)
def test_scene_cuts(rope: str, stagger: int, attention: InflightAttention, counts_behind: bool) -> None:
    """A shot's first block is seen long after, until the next shot's; with `absolute` positions move on."""
    small = {"dim": 16, "num_layers": 2, "ffn_dim": 16}
    card = tiny_card(window_blocks=3, sink_blocks=1, rope=rope, shot_shift_frames=5, **small)
    cuts: Switches = {2: (1, "cut"), 5: (1, "recache"), 7: (2, "cut"), 8: (3, "immediate")}
    switches = {stagger * tick: switch for tick, switch in cuts.items()}
    check(card, stagger, attention, 11, switches, counts_behind=counts_behind)


@pytest.mark.parametrize("rope", ["absolute", "window"])
@pytest.mark.parametrize("num_later", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stagger", [1, 5])
def test_recache_of_a_shot(rope: str, num_later: int, stagger: int) -> None:
    """While its first block is encoded anew with the others, about to leave, and beside the sink."""
    small = {"dim": 16, "num_layers": 2, "ffn_dim": 16}
    card = tiny_card(window_blocks=3, sink_blocks=1, rope=rope, shot_shift_frames=5, **small)
    switches: Switches = {3 * stagger: (1, "cut"), (3 + num_later) * stagger: (2, "recache")}
    check(card, stagger, "bidirectional", 12, switches)


@pytest.mark.parametrize("set_back", [1, 2, 4, 9])
@pytest.mark.parametrize("stagger", [1, 2, 5])
def test_blocks_in_flight_go_back_at_a_switch(stagger: int, set_back: int) -> None:
    """Twice, and once too soon after."""
    switches: Switches = {8: (1, "immediate"), 10: (2, "immediate"), 15: (3, "immediate")}
    check(tiny_card(window_blocks=3, sink_blocks=1), stagger, "bidirectional", 10, switches, set_back)


@pytest.mark.parametrize("tick", [0, 1, 4, 5, 6])
def test_recache_of_a_young_session(tick: int) -> None:
    """While it is short enough to be encoded whole, the sink is replaced; after that it stays."""
    card = tiny_card(window_blocks=3, sink_blocks=2, rope="window")
    check(card, 1, "bidirectional", 6, {tick: (1, "recache")})


@pytest.mark.parametrize("block_frames", [1, 8])
def test_frames_of_wan_2_2(block_frames: int) -> None:
    """Another factor of the VAE, other channels, other blocks, and a frame of more tokens along one side."""
    card = tiny_card(vae_factor=16, block_frames=block_frames, window_blocks=2, sink_blocks=1, in_channels=6)
    check(card, 1, "bidirectional", 5, height=64, width=96)


@pytest.mark.parametrize(
    ("solver", "stagger", "set_back"),
    [
        ("renoise", 1, 0),
        ("renoise", 2, 1),
        ("unipc", 1, 0),
        ("unipc", 2, 0),
        ("unipc", 5, 0),
        ("unipc", 1, 2),
    ],
)
def test_solvers_and_a_clean_first_frame(solver: str, stagger: int, set_back: int) -> None:
    """LongLive 2.0's ways, one by one and together, under switches that set blocks back."""
    card = tiny_card(solver=solver, steps=UNIPC_STEPS, window_blocks=3, sink_blocks=1, rope="window")
    switches: Switches = {2: (1, "immediate"), 5 + 3 * stagger: (2, "immediate")}
    check(card, stagger, "bidirectional", 6, switches, set_back)
    frame = block_noise(1, 0, 0, (1, 4, 4, 4))
    check(card, stagger, "bidirectional", 4, switches, set_back, first_frame=frame)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize(("solver", "most"), [("renoise", STEPS), ("unipc", UNIPC_STEPS)])
def test_a_step_list_of_the_first_block(solver: str, most: tuple[float, ...], num_steps: int) -> None:
    """Causal-Forcing's frame by frame, whose first frame takes four steps; with other ways besides."""
    few = most[:: 4 // num_steps][:num_steps]
    card = tiny_card(
        solver=solver, steps=few, first_steps=most, block_frames=1, window_blocks=3, sink_blocks=1
    )
    for stagger in range(1, num_steps + 2):
        check(card, stagger, "bidirectional", 6, {2: (1, "immediate"), 7: (2, "recache")})
        check(card, stagger, "causal", 5, {3: (1, "immediate"), 6: (2, "immediate")}, set_back=2)


def test_context_noise_and_other_step_counts() -> None:
    card = tiny_card(steps=(1000, 400), window_blocks=3, sink_blocks=1)
    check(card, 1, "causal", 6)
    single = tiny_card(steps=(1000,), window_blocks=2)
    check(single, 1, "bidirectional", 5)
    check(single, 2, "bidirectional", 5)


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelCard, int, InflightAttention, int, Switches, int]:
    window = draw(st.integers(1, 5))
    can_cut = window > 2 and draw(st.booleans())
    card = tiny_card(
        steps=(1000, 750, 500, 250)[: draw(st.integers(1, 4))],
        block_frames=draw(st.integers(1, 3)),
        window_blocks=window,
        sink_blocks=draw(st.integers(int(can_cut), 3)),
        context_window_blocks=None if can_cut else draw(st.none() | st.integers(1, window)),
        shot_shift_frames=draw(st.integers(0, 9)) if can_cut else None,
        rope=draw(st.sampled_from(["absolute", "window"])),
        dim=16,
        num_layers=2,
        ffn_dim=16,
    )
    modes = st.sampled_from(["immediate", "boundary", "recache", *["cut"] * 3 * can_cut])
    ticks = sorted(draw(st.sets(st.integers(0, 20), max_size=3 if can_cut else 2)))
    switches = {tick: (prompt, draw(modes)) for prompt, tick in enumerate(ticks, start=1)}
    stagger = draw(st.integers(1, card.sampling.num_passes))
    attention, num_blocks = draw(st.sampled_from(ATTENTIONS)), draw(st.integers(1, 12 if can_cut else 7))
    return card, stagger, attention, num_blocks, switches, draw(st.integers(0, 5))


@given(case=cases())
@settings(max_examples=25, deadline=None)
def test_any_case(case: tuple[ModelCard, int, InflightAttention, int, Switches, int]) -> None:
    check(*case)


@pytest.mark.parametrize("rope", ["absolute", "window"])
@pytest.mark.parametrize("stagger", [1, 5])
def test_far_into_a_session(rope: str, stagger: int) -> None:
    """At latent frame 9,000 the moved sink is as exact as at the beginning."""
    start, num_blocks = 3_000, 4
    card = tiny_card(window_blocks=3, sink_blocks=1, rope=rope, max_positions=12_000)
    model = tiny_model(card)
    context = {block: block_noise(1, block, 0, (3, 4, 4, 4)) for block in (0, 2_997, 2_998, 2_999)}
    prompts = {0: 0, 2_997: 0, 2_998: 1, 2_999: 1}
    expected = Restatement(model, card, stagger, "bidirectional").generate(
        start + num_blocks,
        start=start,
        context={block: (latents, prompts[block]) for block, latents in context.items()},
    )
    primed = tuple(Work(block, card.sampling.num_passes - 1, prompts[block]) for block in sorted(context))
    timeline = Timeline(0, next_block=start, prompt=0, to_prime=primed)
    runner = make_runner(card, stagger, "bidirectional", model)
    actual = run_blocks(runner, start + num_blocks, seed=SEED, timeline=timeline, context=context)
    compare(actual, expected, range(start, start + num_blocks))


@pytest.mark.parametrize("rope", ["absolute", "window"])
def test_opened_long_after_a_cut(rope: str) -> None:
    """It is primed with the shot's first block, too, which its window has left long ago."""
    start, num_blocks, stagger = 3_000, 4, 1
    small = {"dim": 16, "num_layers": 2, "ffn_dim": 16, "max_positions": 12_000}
    card = tiny_card(window_blocks=3, sink_blocks=1, rope=rope, shot_shift_frames=5, **small)
    model, cuts = tiny_model(card), (5, 2_900)
    blocks = context_blocks(card.window, start, cuts)
    assert blocks == [0, 2_900, 2_996, 2_997, 2_998, 2_999]
    context = {block: block_noise(1, block, 0, (3, 4, 4, 4)) for block in blocks}
    restatement = Restatement(model, card, stagger, "bidirectional")
    restatement.cuts = list(cuts)
    expected = restatement.generate(
        start + num_blocks, start=start, context={block: (latents, 0) for block, latents in context.items()}
    )
    runner = make_runner(card, stagger, "bidirectional", model)
    request = SessionRequest(
        {0: "a"}, start_block=start, context=context, cuts=cuts, width=SIDE, height=SIDE, fps=16, stagger=1
    )
    request = replace(request, inflight_attention="bidirectional")
    check_request(request, make(EngineConfig, {"model": "demo"}), card)
    timeline = first_timeline(0, request, runner.shape)
    actual = run_blocks(runner, start + num_blocks, seed=SEED, timeline=timeline, context=context)
    compare(actual, expected, range(start, start + num_blocks))


@pytest.mark.parametrize("tick", [0, 2])
@pytest.mark.parametrize("stagger", [1, 5])
def test_recache_right_after_opening(stagger: int, tick: int) -> None:
    """It encodes blocks again that the session was only primed with."""
    start, num_blocks = 10, 5
    card = tiny_card(window_blocks=3, sink_blocks=1)
    model = tiny_model(card)
    blocks = context_blocks(card.window, start)
    context = {block: block_noise(1, block, 0, (3, 4, 4, 4)) for block in blocks}
    expected = Restatement(model, card, stagger, "bidirectional").generate(
        start + num_blocks,
        {tick: (1, "recache")},
        start=start,
        context={block: (latents, 0) for block, latents in context.items()},
    )
    primed = tuple(Work(block, card.sampling.num_passes - 1, 0) for block in blocks)
    timeline = Timeline(0, next_block=start, to_prime=primed)
    runner = make_runner(card, stagger, "bidirectional", model)
    switches: Switches = {tick + 1: (1, "recache")}  # priming is a tick of its own
    actual = run_blocks(runner, start + num_blocks, switches, seed=SEED, timeline=timeline, context=context)
    compare(actual, expected, range(start, start + num_blocks))


# The sequential pipeline


def test_cached_sequential_equals_recomputing_under_a_block_causal_mask() -> None:
    """Every pass of block n as one forward over blocks 0..n, the clean ones at the context timestep."""
    num_blocks = 5
    card = tiny_card(window_blocks=num_blocks)
    model, tokens = tiny_model(card), card.tokens_per_block(SIDE, SIDE)
    sigmas, timesteps = pass_sigmas(card.sampling), pass_timesteps(card.sampling)

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        blocks = query.shape[0]
        owner = torch.arange(blocks).repeat_interleave(tokens)
        mask = owner[:, None] >= owner[None, :]
        whole = [part.flatten(0, 1).transpose(0, 1)[None] for part in (query, key, value)]
        attended = F.scaled_dot_product_attention(*whole, attn_mask=mask)
        return attended[0].transpose(0, 1).unflatten(0, (blocks, tokens))

    clean: list[Tensor] = []
    with torch.inference_mode():
        text = model.embed_text(prompt_embedding(card, 0))
        for block in range(num_blocks):
            x = block_noise(SEED, block, 0, (3, 4, 4, 4))
            starts = [3 * index for index in range(block + 1)]
            turns = RotaryTable(3, 2, 2, card.transformer.head_dim, CPU).turns(starts)
            for index in range(4):
                time, modulation = model.embed_time([timesteps[-1]] * block + [timesteps[index]])
                cond = Conditioning(time, modulation, turns, (text,) * (block + 1))
                velocity = model(torch.stack([*clean, x]), cond, attend)[-1]
                x = clean_estimate(x, velocity, sigmas[index])
                if index < 3:
                    x = renoise(x, block_noise(SEED, block, index + 1, (3, 4, 4, 4)), sigmas[index + 1])
            clean.append(x)
    actual = run_blocks(make_runner(card, 5, model=model), num_blocks, seed=SEED)
    compare(actual, dict(enumerate(clean)), range(num_blocks))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("rope", "sink_blocks"), [("absolute", 0), ("absolute", 1), ("window", 0)])
def test_stagger_p_is_the_sequential_loop_bit_for_bit(
    rope: str, sink_blocks: int, attention: InflightAttention
) -> None:
    """Blocks one after the other, passes one after the other, with a cache and nothing else."""
    num_blocks, window_blocks = 7, 3
    card = tiny_card(window_blocks=window_blocks, sink_blocks=sink_blocks, rope=rope)
    model = tiny_model(card)
    sigmas, timesteps = pass_sigmas(card.sampling), pass_timesteps(card.sampling)
    cache = KvCache(card.transformer, card.window, card.tokens_per_block(SIDE, SIDE), CPU, torch.float32)
    clean: dict[int, Tensor] = {}

    def pass_of(block: int, index: int, x: Tensor) -> Tensor:
        """Velocity; the context pass also fills the cache."""
        seen = [part for blocks in cache.visible(block - window_blocks + 1) for part in blocks]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache.write(layer, block, key[0], value[0])
            parts = cache.read(layer, [*seen, block])
            return merge([attend_partial(query[0], part) for part in parts])[None]

        turns = RotaryTable(3, 2, 2, card.transformer.head_dim, CPU).turns([3 * block])
        return model(x[None], Conditioning(*times[index], turns, (text,)), attend)[0]

    with torch.inference_mode():
        time, modulation = model.embed_time(timesteps)
        times = [(time[index, None], modulation[:, :, index, None]) for index in range(5)]
        text = model.embed_text(prompt_embedding(card, 0))
        for block in range(num_blocks):
            x = block_noise(SEED, block, 0, (3, 4, 4, 4))
            for index in range(4):
                x = clean_estimate(x, pass_of(block, index, x), sigmas[index])
                if index < 3:
                    x = renoise(x, block_noise(SEED, block, index + 1, (3, 4, 4, 4)), sigmas[index + 1])
            clean[block] = x
            pass_of(block, 4, x)
            cache.commit(block)
    actual = run_blocks(make_runner(card, 5, attention, model), num_blocks, seed=SEED)
    assert sorted(actual) == sorted(clean)
    for block, latents in actual.items():
        assert torch.equal(latents, clean[block]), block


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("mode", ["immediate", "boundary", "recache"])
def test_one_pass_less_than_sequential_makes_the_same(attention: InflightAttention, mode: SwitchMode) -> None:
    """A block then starts beside the context pass of the one before. The demo's evaluation films neither that
    nor `boundary` sequentially, which is `immediate`."""
    card = tiny_card(window_blocks=3, sink_blocks=1)
    model, same = tiny_model(card), "immediate" if mode == "boundary" else mode
    sequential = run_blocks(make_runner(card, 5, attention, model), 6, {5 * 3: (1, same)}, seed=SEED)
    actual = run_blocks(make_runner(card, 4, attention, model), 6, {4 * 3: (1, mode)}, seed=SEED)
    compare(actual, sequential, range(6))


def test_the_cascade_is_not_the_sequential_pipeline() -> None:
    """So that the comparisons above compare something: stagger and mode do change the video."""
    card = tiny_card()
    model = tiny_model(card)
    runs = {
        (stagger, attention): run_blocks(make_runner(card, stagger, attention, model), 4)[3]
        for stagger in (1, 2, 5)
        for attention in ATTENTIONS
    }
    assert relative_error(runs[5, "causal"], runs[5, "bidirectional"]) == 0
    del runs[5, "causal"]
    names = list(runs)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            assert relative_error(runs[name], runs[other]) >= 1e-3, (name, other)
