"""One rank executes one TickPlan."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cascade_core.attention.attention import Kernel
from cascade_core.attention.exchange import Exchange
from cascade_core.attention.joint_attention import JointAttention, RankSetup
from cascade_core.attention.kv_cache import KvCache
from cascade_core.attention.rope import RotaryTable
from cascade_core.config import ModelCard
from cascade_core.loras import Choice
from cascade_core.model.host_memory import upload
from cascade_core.model.lora_bank import LoraBank
from cascade_core.model.low_rank import LowRanks
from cascade_core.model.model import CausalWanModel, Conditioning, TextCache
from cascade_core.ranks.noise import (
    NoiseThread,
    SessionNoise,
    first_noise,
    following_noise,
    noise_of,
    setting_back_noise,
)
from cascade_core.ranks.passes import CLEAN, Noisy, Passes
from cascade_core.schedule import Shape, TickPlan, Work, cached_blocks, recache_blocks


@dataclass
class SessionState:
    """What one rank holds of one session. Everything can be rebuilt from the journal."""

    cache: KvCache
    noise: SessionNoise
    positions: RotaryTable
    prompts: dict[int, TextCache] = field(default_factory=dict)
    choices: dict[int, Choice] = field(default_factory=dict)
    """LoRAs by prompt, of those that have any."""
    first_frame: Tensor | None = None
    """[1, C, h, w], clean: block 0 begins with it, whatever its passes make of that frame."""
    noisy: dict[int, Noisy] = field(default_factory=dict)
    """This rank's blocks in flight."""
    clean: dict[int, Tensor] = field(default_factory=dict)
    """This rank's clean blocks that a recache or the context pass still needs."""


def first_position(work: Work, shape: Shape) -> int:
    """Of a block's frames, before the window moves what lies in front of it."""
    window = shape.window
    shift = window.shot_shift_frames if window.rope == "absolute" else 0
    return work.block * window.block_frames + work.num_cuts * (shift or 0)


class Runner:
    """The model, the sessions' caches, and one tick at a time."""

    def __init__(
        self,
        model: CausalWanModel,
        card: ModelCard,
        shape: Shape,
        rank: int,
        exchange: Exchange,
        kernel: Kernel | None = None,
        loras: LoraBank | None = None,
    ) -> None:
        """`shape.window` counts, not the card's: the engine may override its rope. Stagger and attention
        come with each plan. `kernel`: of self-attention; None: the preferred one. `loras`: those that prompts
        may have."""
        self.model = model
        self.card = card
        self.shape = shape
        self.rank = rank
        self.loras = loras
        self.sessions: dict[int, SessionState] = {}
        self._setup = RankSetup(shape, rank, exchange, kernel)
        self._noise = NoiseThread(model.device)
        self._passes = Passes(model, card.sampling, shape)

    def open(
        self,
        session: int,
        seed: int,
        height: int,
        width: int,
        context: Mapping[int, Tensor],
        first_frame: Tensor | None = None,
    ) -> None:
        """Make room for a session; `context` holds the clean latents [F, C, h, w] it is primed with,
        `first_frame` those [1, C, h, w] that block 0 begins with."""
        tokens = self.card.tokens_per_block(height, width)
        window = self.shape.window
        cache = KvCache(self.model.config, window, tokens, self.model.device, self.model.dtype)
        latent_shape = self.card.latent_shape(height, width)
        grid = self.card.grid(height, width)
        positions = RotaryTable(*grid, self.model.config.head_dim, self.model.device)
        state = SessionState(cache, SessionNoise(self._noise, seed, latent_shape), positions)
        first = 1 + max(context, default=-1)
        state.noise.expect(first_noise(first, self.shape, self.rank, self._passes.renoises))
        if first_frame is not None:
            state.first_frame = upload(first_frame, self.model.device)
        state.clean = {block: upload(latents, self.model.device) for block, latents in context.items()}
        self.sessions[session] = state

    def close(self, session: int) -> None:
        if state := self.sessions.pop(session, None):
            state.noise.expect(())

    @torch.inference_mode()
    def add_prompt(self, session: int, prompt: int, embedding: Tensor, choice: Choice = ()) -> None:
        """Compute the text cache of a prompt embedding [num_tokens, text_dim], whose blocks have these
        LoRAs."""
        rows, state = upload(embedding, self.model.device), self.sessions[session]
        state.prompts[prompt] = self.model.embed_text(rows, self._low_ranks([choice]))
        if choice:
            state.choices[prompt] = choice

    def forget_prompts(self, session: int, prompts: Collection[int]) -> None:
        """Free the text caches of prompts that no block here has any more."""
        state = self.sessions[session]
        for prompt in prompts:
            del state.prompts[prompt]
            state.choices.pop(prompt, None)

    @torch.inference_mode()
    def tick(self, plan: TickPlan) -> Tensor | None:
        """Run this rank's part; returns the latents [F, C, h, w] if its block became clean."""
        state = self.sessions[plan.session]
        works = plan.ranks[self.rank]
        attend = JointAttention(self._setup, state.cache, plan)
        if works:
            inputs = [self._input(state, work) for work in works]
            send = attend.send if attend.travels else None
            latents = torch.stack([noisy.latents for noisy in inputs])
            velocity = self.model(latents, self._conditioning(state, works), attend, send)
            for work, noisy, direction in zip(works, inputs, velocity, strict=True):
                self._advance(state, work, noisy, direction)
        else:
            attend.idle()
        self._commit(state, plan)
        state.noise.expect(following_noise(plan, self.shape, self.rank, self._passes.renoises))
        emitted = next((work.block for work in works if work.block == plan.emits), None)
        return None if emitted is None else state.clean[emitted]

    def _input(self, state: SessionState, work: Work) -> Noisy:
        if work.pass_index == self.shape.context_pass:
            return Noisy(work.pass_index, state.clean[work.block])
        noisy = state.noisy.pop(work.block, None)
        if noisy is None or work.pass_index == self.shape.first_pass(work.block):
            noise = state.noise.take(*noise_of(work.block, work.pass_index, self.shape))
            noisy = Noisy(work.pass_index, noise)
        elif work.pass_index < noisy.coming:
            noise = state.noise.take(*setting_back_noise(work.block, work.pass_index, self.shape))
            noisy = self._passes.set_back(noisy, work, noise)
        if (frame := self._first_frame(state, work)) is not None:
            noisy.latents[:1] = frame
        return noisy

    def _advance(self, state: SessionState, work: Work, noisy: Noisy, velocity: Tensor) -> None:
        if work.pass_index == self.shape.context_pass:
            return
        clean = self._passes.estimate(noisy, work, velocity)
        following = work.pass_index + 1
        if following == self.shape.context_pass:
            if (frame := self._first_frame(state, work)) is not None:
                clean[:1] = frame
            state.clean[work.block] = clean
        else:
            name = noise_of(work.block, following, self.shape)
            noise = state.noise.take(*name) if self._passes.renoises else None
            state.noisy[work.block] = self._passes.follow(noisy, work, clean, noise)

    def _first_frame(self, state: SessionState, work: Work) -> Tensor | None:
        """The frame of this pass that is clean while the others are not."""
        is_denoising = work.pass_index < self.shape.context_pass
        return state.first_frame if work.block == 0 and is_denoising else None

    def _conditioning(self, state: SessionState, works: tuple[Work, ...]) -> Conditioning:
        """Of the blocks, or of all their frames where one of these is clean and the others are not."""
        frames = self.shape.window.block_frames
        turns = state.positions.turns([first_position(work, self.shape) for work in works])
        timesteps = [self._passes.timestep(work) for work in works]
        prompts = [work.prompt for work in works]
        if self._first_frame(state, works[0]) is not None:  # block 0 is the oldest, if it is among them
            turns = turns.view(len(works) * frames, -1, *turns.shape[2:])
            timesteps = [each for each in timesteps for _ in range(frames)]
            timesteps[0] = CLEAN
            prompts = [each for each in prompts for _ in range(frames)]
        time, modulation = self._passes.embedded(timesteps)
        texts = tuple(state.prompts[prompt] for prompt in prompts)
        low = self._low_ranks([state.choices.get(prompt, ()) for prompt in prompts])
        return Conditioning(time, modulation, turns, texts, low)

    def _low_ranks(self, choices: Sequence[Choice]) -> LowRanks | None:
        return self.loras.low_ranks(choices) if self.loras else None

    def _commit(self, state: SessionState, plan: TickPlan) -> None:
        """Book what the tick made clean, and forget what no later tick reads."""
        works = plan.works
        for block in cached_blocks(plan, self.shape):
            state.cache.commit(block)
        kept = recache_blocks(self.shape.window, state.cache.end)
        state.clean = {block: x for block, x in state.clean.items() if block >= min(kept, default=0)}
        oldest_prompt = min(work.prompt for work in works)
        state.prompts = {number: text for number, text in state.prompts.items() if number >= oldest_prompt}
        state.choices = {number: kept for number, kept in state.choices.items() if number >= oldest_prompt}
