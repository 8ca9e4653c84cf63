"""Self-attention of one rank's blocks in one tick: which keys each block sees, and where they are."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade_core.attention.attention import Kernel, KeyValue, Partial, attend_partial, merge
from cascade_core.attention.exchange import Exchange, Gathering, Local
from cascade_core.attention.kv_cache import KvCache, contiguous_runs
from cascade_core.attention.rope import rotate
from cascade_core.schedule import Shape, TickPlan, Work, cached_blocks, sight


@dataclass(frozen=True)
class RankSetup:
    """What does not change from tick to tick."""

    shape: Shape
    rank: int
    exchange: Exchange
    kernel: Kernel | None = None
    """What attends; None: the preferred one of the device."""


class JointAttention:
    """Self-attention of this rank's blocks in one tick: [clean cache | blocks in flight]."""

    def __init__(self, setup: RankSetup, cache: KvCache, plan: TickPlan) -> None:
        self._setup = setup
        self._cache = cache
        self._plan = plan
        self._slots = max(len(rank) for rank in plan.ranks)
        self._rows = {
            work.block: rank * self._slots + slot
            for rank, works in enumerate(plan.ranks)
            for slot, work in enumerate(works)
        }
        self._to_cache = cached_blocks(plan, setup.shape)
        self._gathering: Gathering | None = None
        self.travels = len(self._rows) > 1 or bool(self._to_cache)
        """Whether ranks exchange anything in this tick."""
        if not self.travels:
            self._rows = dict.fromkeys(self._rows, 0)
        works = plan.ranks[setup.rank]
        self._own = works[0].block if works and len(self._rows) == 1 else None
        """The block that is alone in flight, and here: it lies in the cache from its first pass on."""
        pinned = {work.block: work.pinned for work in plan.works}
        for block in self._to_cache if self._own is None else [self._own]:
            cache.place(block, pinned[block])
        self._to_cache = [block for block in self._to_cache if cache.has_place(block)]
        self._readers = [Reader(work, setup, cache, plan, self._own) for work in works]

    def send(self, key: Tensor, value: Tensor) -> None:
        """Start to gather keys and values [N, L, H, D] from all ranks, before the queries are there."""
        self._gathering = self._setup.exchange.gather(key, value, self._slots)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention output [N, L, H, D]; the gather runs while the clean cache is attended."""
        gathering, self._gathering = self._gathering or Local(key, value), None
        if self._own is not None:
            self._cache.write(layer, self._own, key[0], value[0])
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
        if not self.travels:
            return
        nothing = self._cache.no_blocks()
        for layer in range(self._cache.num_layers):
            keys, values = self._setup.exchange.gather(nothing, nothing, self._slots).wait()
            self._store(layer, keys, values)

    def _store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """After every reader of this rank has read: a block may take the place of one just left behind."""
        for block in self._to_cache:
            if block != self._own:
                row = self._rows[block]
                self._cache.write(layer, block, keys[row], values[row])


class Reader:
    """What one pass of one block sees, worked out once per tick."""

    def __init__(
        self, work: Work, setup: RankSetup, cache: KvCache, plan: TickPlan, cached_own: int | None
    ) -> None:
        """`cached_own`: the block itself, where it lies in the cache before it is clean."""
        shape, rope = setup.shape, setup.shape.window.rope
        oldest, self._in_flight = sight(work, plan.works, shape, plan.inflight_attention)
        self._cache = cache
        self._kernel = setup.kernel
        sink, window = cache.visible(oldest)
        pinned = work.pinned if work.pinned is not None and work.pinned < oldest else None
        if plan.recache:
            # All see the same: what is encoded anew and, unless that is everything, the sink and what is
            # pinned before it.
            shift = plan.works[0].block
            self._in_flight = cached_blocks(plan, shape)
            oldest = self._in_flight[0]
            pinned = work.pinned if work.pinned is not None and work.pinned < oldest else None
            sink, window = (sink if shift else []), []
        else:
            shift = max(0, oldest - shape.window.sink_blocks - (pinned is not None))
        # rope = window: sink and pinned block stay right in front of the window instead of falling ever
        # further behind.
        self._shift = shift if rope == "window" else 0
        self._moves = dict.fromkeys(range(shape.window.sink_blocks), self._shift)
        if pinned is not None:
            self._moves[pinned] = oldest - 1 - pinned if rope == "window" else 0
        self._sees_sink = bool(sink)
        self._cached = sink + window
        self._pinned = [pinned] if pinned is not None and cache.has(pinned) else []
        if cached_own is not None:
            self._cached, self._in_flight = [*self._cached, cached_own], []

    def attend_clean(self, layer: int, query: Tensor) -> list[Partial]:
        """Partial attention of queries [L, H, D] to what lies in the cache."""
        if self._sees_sink:
            self._cache.turn_sink(layer, self._shift)
        parts = self._cache.read(layer, self._cached)
        for block in self._pinned:
            parts += [self._move(part, self._moves[block]) for part in self._cache.read(layer, [block])]
        return [attend_partial(query, part, self._kernel) for part in parts]

    def attend_in_flight(
        self, query: Tensor, keys: Tensor, values: Tensor, rows: Mapping[int, int]
    ) -> list[Partial]:
        """Partial attention of queries [L, H, D] to gathered keys and values [W * N, L, H, D]."""

        def read(blocks: list[int]) -> list[KeyValue]:
            runs = contiguous_runs(sorted(rows[block] for block in blocks))
            return [
                (keys[start:stop].flatten(0, 1), values[start:stop].flatten(0, 1)) for start, stop in runs
            ]

        moved = [block for block in self._in_flight if self._moves.get(block)]
        parts = read([block for block in self._in_flight if block not in moved])
        for block in moved:
            parts += [self._move(part, self._moves[block]) for part in read([block])]
        return [attend_partial(query, part, self._kernel) for part in parts]

    def _move(self, key_value: KeyValue, shift: int) -> KeyValue:
        key, value = key_value
        return (rotate(key, self._cache.turns(shift)) if shift else key), value
