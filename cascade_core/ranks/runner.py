"""One rank executes one TickPlan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cascade_core.attention.attention import Kernel
from cascade_core.attention.exchange import Exchange
from cascade_core.attention.joint_attention import JointAttention, RankSetup
from cascade_core.attention.kv_cache import KvCache
from cascade_core.attention.rope import RotaryTable
from cascade_core.config import ModelCard
from cascade_core.model.host_memory import upload
from cascade_core.model.lora_bank import Choice, LoraBank
from cascade_core.model.low_rank import LowRanks
from cascade_core.model.model import CausalWanModel, Conditioning, TextCache
from cascade_core.model.sampler import (
    clean_estimate,
    pass_sigmas,
    pass_timesteps,
    renoise,
    set_back,
)
from cascade_core.ranks.noise import NoiseThread, SessionNoise, first_noise, following_noise
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
    noisy: dict[int, tuple[int, Tensor]] = field(default_factory=dict)
    """This rank's blocks in flight: the coming pass, unless the block is set back, and its input."""
    clean: dict[int, Tensor] = field(default_factory=dict)
    """This rank's clean blocks that a recache or the context pass still needs."""


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
        self._sigmas = pass_sigmas(card.sampling)
        with torch.inference_mode():
            self._time, self._modulation = model.embed_time(pass_timesteps(card.sampling))

    def open(self, session: int, seed: int, height: int, width: int, context: Mapping[int, Tensor]) -> None:
        """Make room for a session; `context` holds the clean latents [F, C, h, w] it is primed with."""
        tokens = self.card.tokens_per_block(height, width)
        window = self.shape.window
        cache = KvCache(self.model.config, window, tokens, self.model.device, self.model.dtype)
        latent_shape = self.card.latent_shape(height, width)
        grid = self.card.grid(height, width)
        positions = RotaryTable(*grid, self.model.config.head_dim, self.model.device)
        state = SessionState(cache, SessionNoise(self._noise, seed, latent_shape), positions)
        state.noise.expect(first_noise(1 + max(context, default=-1), self.shape, self.rank))
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

    @torch.inference_mode()
    def tick(self, plan: TickPlan) -> Tensor | None:
        """Run this rank's part; returns the latents [F, C, h, w] if its block became clean."""
        state = self.sessions[plan.session]
        works = plan.ranks[self.rank]
        attend = JointAttention(self._setup, state.cache, plan)
        if works:
            inputs = [self._input(state, work) for work in works]
            send = attend.send if attend.travels else None
            velocity = self.model(torch.stack(inputs), self._conditioning(state, works), attend, send)
            for work, noisy, direction in zip(works, inputs, velocity, strict=True):
                self._advance(state, work, noisy, direction)
        else:
            attend.idle()
        self._commit(state, plan)
        state.noise.expect(following_noise(plan, self.shape, self.rank))
        emitted = next((work.block for work in works if work.block == plan.emits), None)
        return None if emitted is None else state.clean[emitted]

    def _input(self, state: SessionState, work: Work) -> Tensor:
        if work.pass_index == self.shape.context_pass:
            return state.clean[work.block]
        coming, noisy = state.noisy.pop(work.block, (0, None))
        if noisy is None or work.pass_index == 0:
            return state.noise.take(work.block, 0)
        if work.pass_index == coming:
            return noisy
        noise = state.noise.take(work.block, self.shape.num_passes + work.pass_index)
        return set_back(noisy, noise, self._sigmas[coming], self._sigmas[work.pass_index])

    def _advance(self, state: SessionState, work: Work, noisy: Tensor, velocity: Tensor) -> None:
        if work.pass_index == self.shape.context_pass:
            return
        clean = clean_estimate(noisy, velocity, self._sigmas[work.pass_index])
        following = work.pass_index + 1
        if following == self.shape.context_pass:
            state.clean[work.block] = clean
        else:
            noise = state.noise.take(work.block, following)
            state.noisy[work.block] = following, renoise(clean, noise, self._sigmas[following])

    def _conditioning(self, state: SessionState, works: tuple[Work, ...]) -> Conditioning:
        frames = self.shape.window.block_frames

        def of_passes(table: Tensor, dim: int) -> Tensor:
            return torch.cat([table.narrow(dim, work.pass_index, 1) for work in works], dim)

        return Conditioning(
            time=of_passes(self._time, 0),
            modulation=of_passes(self._modulation, 2),
            turns=state.positions.turns([work.block * frames for work in works]),
            text=tuple(state.prompts[work.prompt] for work in works),
            low=self._low_ranks([state.choices.get(work.prompt, ()) for work in works]),
        )

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
