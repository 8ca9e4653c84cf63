"""One rank executes one TickPlan."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade_core.attention import KeyValue, Partial, attend_partial, merge, rotate
from cascade_core.config import InflightAttention, ModelCard
from cascade_core.exchange import Exchange, Gathering, Local
from cascade_core.kv_cache import KvCache, contiguous_runs
from cascade_core.model import CausalWanModel, Conditioning, TextCache, rope_angles, time_shift_angles
from cascade_core.sampler import block_noise, clean_estimate, pass_sigmas, pass_timesteps, renoise
from cascade_core.schedule import Shape, TickPlan, Work, recache_blocks, visible_in_flight, window_start


@dataclass
class SessionState:
    """What one rank holds of one session. Everything can be rebuilt from the journal."""

    seed: int
    shape: tuple[int, int, int, int]
    """[F, C, h, w] of a block's latents."""
    cache: KvCache
    prompts: dict[int, TextCache] = field(default_factory=dict)
    noisy: dict[int, Tensor] = field(default_factory=dict)
    """Input of the coming pass of this rank's blocks in flight."""
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
        inflight_attention: InflightAttention,
    ) -> None:
        """`shape.window` counts, not the card's: the engine may override its rope."""
        self.model = model
        self.card = card
        self.shape = shape
        self.rank = rank
        self.exchange = exchange
        self.inflight_attention = inflight_attention
        self.sessions: dict[int, SessionState] = {}
        self._sigmas = pass_sigmas(card.sampling)
        with torch.inference_mode():
            self._time, self._modulation = model.embed_time(pass_timesteps(card.sampling))

    def open(self, session: int, seed: int, height: int, width: int, context: Mapping[int, Tensor]) -> None:
        """Make room for a session; `context` holds the clean latents [F, C, h, w] it is primed with."""
        tokens = self.card.tokens_per_block(height, width)
        window = self.shape.window
        cache = KvCache(self.model.config, window, tokens, self.model.device, self.model.dtype)
        state = SessionState(seed, self.card.latent_shape(height, width), cache)
        state.clean = {block: latents.to(self.model.device) for block, latents in context.items()}
        self.sessions[session] = state

    def close(self, session: int) -> None:
        self.sessions.pop(session, None)

    @torch.inference_mode()
    def add_prompt(self, session: int, prompt: int, embedding: Tensor) -> None:
        """Compute the text cache of a prompt embedding [num_tokens, text_dim]."""
        self.sessions[session].prompts[prompt] = self.model.embed_text(embedding)

    @torch.inference_mode()
    def tick(self, plan: TickPlan) -> Tensor | None:
        """Run this rank's part; returns the latents [F, C, h, w] if its block became clean."""
        state = self.sessions[plan.session]
        works = plan.ranks[self.rank]
        attend = JointAttention(self, state, plan)
        if works:
            inputs = [self._input(state, work) for work in works]
            velocity = self.model(torch.stack(inputs), self._conditioning(state, works), attend)
            for work, noisy, direction in zip(works, inputs, velocity, strict=True):
                self._advance(state, work, noisy, direction)
        else:
            attend.idle()
        self._commit(state, plan)
        emitted = next((work.block for work in works if work.block == plan.emits), None)
        return None if emitted is None else state.clean[emitted]

    def _input(self, state: SessionState, work: Work) -> Tensor:
        if work.pass_index == self.shape.context_pass:
            return state.clean[work.block]
        if work.pass_index == 0:
            return self._noise(state, work.block, 0)
        return state.noisy.pop(work.block)

    def _advance(self, state: SessionState, work: Work, noisy: Tensor, velocity: Tensor) -> None:
        if work.pass_index == self.shape.context_pass:
            return
        clean = clean_estimate(noisy, velocity, self._sigmas[work.pass_index])
        following = work.pass_index + 1
        if following == self.shape.context_pass:
            state.clean[work.block] = clean
        else:
            noise = self._noise(state, work.block, following)
            state.noisy[work.block] = renoise(clean, noise, self._sigmas[following])

    def _noise(self, state: SessionState, block: int, pass_index: int) -> Tensor:
        noise = block_noise(state.seed, block, pass_index, state.shape)
        return noise.to(self.model.device, non_blocking=True)

    def _conditioning(self, state: SessionState, works: tuple[Work, ...]) -> Conditioning:
        frames, _, height, width = state.shape
        starts = [work.block * frames for work in works]
        cos, sin = rope_angles(
            starts, frames, height // 2, width // 2, self.model.config.head_dim, self.model.device
        )
        return Conditioning(
            time=torch.stack([self._time[work.pass_index] for work in works]),
            modulation=torch.stack([self._modulation[work.pass_index] for work in works]),
            cos=cos,
            sin=sin,
            text=tuple(state.prompts[work.prompt] for work in works),
        )

    def _commit(self, state: SessionState, plan: TickPlan) -> None:
        """Book what the tick made clean, and forget what no later tick reads."""
        works = plan.works
        cached = [work.block for work in works if work.pass_index == self.shape.context_pass]
        for block in cached:
            state.cache.commit(block)
        kept = recache_blocks(self.shape.window, state.cache.end)
        state.clean = {block: x for block, x in state.clean.items() if block >= min(kept, default=0)}
        oldest_prompt = min(work.prompt for work in works)
        state.prompts = {number: text for number, text in state.prompts.items() if number >= oldest_prompt}


class JointAttention:
    """Self-attention of this rank's blocks in one tick: [clean cache | blocks in flight]."""

    def __init__(self, runner: Runner, state: SessionState, plan: TickPlan) -> None:
        self._runner = runner
        self._cache = state.cache
        self._plan = plan
        self._slots = max(len(rank) for rank in plan.ranks)
        self._rows = {
            work.block: rank * self._slots + slot
            for rank, works in enumerate(plan.ranks)
            for slot, work in enumerate(works)
        }
        context_pass = runner.shape.context_pass
        self._to_cache = [work.block for work in plan.works if work.pass_index == context_pass]
        self._travels = len(self._rows) > 1 or bool(self._to_cache)
        if not self._travels:
            self._rows = dict.fromkeys(self._rows, 0)
        self._readers = [Reader(work, runner, state.cache, plan) for work in plan.ranks[runner.rank]]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention output [N, L, H, D]; the gather runs while the clean cache is attended."""
        gathering = self._gather(key, value)
        clean = [reader.attend_clean(layer, q) for reader, q in zip(self._readers, query, strict=True)]
        keys, values = gathering.wait()
        outputs = [
            merge(partials + reader.attend_in_flight(q, keys, values, self._rows))
            for reader, q, partials in zip(self._readers, query, clean, strict=True)
        ]
        self._store(layer, keys, values)
        return outputs[0][None] if len(outputs) == 1 else torch.stack(outputs)

    def idle(self) -> None:
        """A rank without work still takes part in the gathers and fills its cache."""
        if not self._travels:
            return
        config, model = self._runner.model.config, self._runner.model
        shape = (self._slots, self._cache.tokens, config.num_heads, config.head_dim)
        nothing = torch.zeros(shape, device=model.device, dtype=model.dtype)
        for layer in range(config.num_layers):
            keys, values = self._runner.exchange.gather(nothing, nothing).wait()
            self._store(layer, keys, values)

    def _gather(self, key: Tensor, value: Tensor) -> Gathering:
        if not self._travels:
            return Local(key, value)
        missing = self._slots - key.shape[0]
        if missing:
            key, value = (F.pad(part, (0, 0, 0, 0, 0, 0, 0, missing)) for part in (key, value))
        return self._runner.exchange.gather(key, value)

    def _store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """After every reader of this rank has read: a block may take the place of one just left behind."""
        for block in self._to_cache:
            if not (self._plan.recache and block < self._runner.shape.window.sink_blocks):
                row = self._rows[block]
                self._cache.write(layer, block, keys[row], values[row])


class Reader:
    """What one pass of one block sees, worked out once per tick."""

    def __init__(self, work: Work, runner: Runner, cache: KvCache, plan: TickPlan) -> None:
        shape = runner.shape
        oldest = window_start(work, shape)
        self._cache = cache
        self._in_flight = visible_in_flight(work, plan.works, shape, runner.inflight_attention)
        self._clean_sink, self._clean_window = ([], []) if plan.recache else cache.visible(oldest)
        # rope = window: the sink stays right in front of the window instead of falling ever further behind.
        shift = max(0, oldest - shape.window.sink_blocks) if shape.window.rope == "window" else 0
        self._moved_sink = range(shape.window.sink_blocks) if shift else range(0)
        self._angles = time_shift_angles(
            shift * shape.window.block_frames, runner.model.config.head_dim, runner.model.device
        )

    def attend_clean(self, layer: int, query: Tensor) -> list[Partial]:
        """Partial attention of queries [L, H, D] to the clean cache."""
        if not self._moved_sink:
            parts = self._cache.read(layer, self._clean_sink + self._clean_window)
        else:
            parts = [self._move(part) for part in self._cache.read(layer, self._clean_sink)]
            parts += self._cache.read(layer, self._clean_window)
        return [attend_partial(query, part) for part in parts]

    def attend_in_flight(
        self, query: Tensor, keys: Tensor, values: Tensor, rows: Mapping[int, int]
    ) -> list[Partial]:
        """Partial attention of queries [L, H, D] to gathered keys and values [W * N, L, H, D]."""

        def read(blocks: list[int]) -> list[KeyValue]:
            runs = contiguous_runs(sorted(rows[block] for block in blocks))
            return [
                (keys[start:stop].flatten(0, 1), values[start:stop].flatten(0, 1)) for start, stop in runs
            ]

        sink = [block for block in self._in_flight if block in self._moved_sink]
        parts = read([block for block in self._in_flight if block not in self._moved_sink])
        parts += [self._move(part) for part in read(sink)]
        return [attend_partial(query, part) for part in parts]

    def _move(self, key_value: KeyValue) -> KeyValue:
        key, value = key_value
        return rotate(key, *self._angles), value
