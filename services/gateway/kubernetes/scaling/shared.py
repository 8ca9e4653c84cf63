"""What the gateways tell each other through Redis, so that each gives the same number.

Keys: `PREFIX:{scaler}:gateways` (a hash by gateway: until when its counts hold, and the counts), `:wishes`
(the highest wish of each ten seconds) and `:offers` (what a pod offered last). Nothing is kept beyond its
time, every key expires, and losing all of it costs no more than the hysteresis.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import Any

from redis.asyncio import Redis

from services.gateway.journal.redis_calls import RedisCalls
from services.gateway.kubernetes.scaling.demand import crowd
from services.gateway.kubernetes.scaling.exchange import EXCHANGE
from services.gateway.peers.reports import Kind
from services.gateway.placement.arrivals import BEFORE_S, LATELY_S

BUCKET_MS = 10_000
WISHES_KEPT_MS = 3_700_000
"""Longer than any window."""
OFFERS_KEPT_MS = 30 * 86_400_000
CALL_TIMEOUT_S = 1.0
MAX_COUNT = 1_000_000
COUNTS = re.compile(rb"(\d{1,15}) (\d{1,15}) (\d{1,15})(?: (\d{1,15}) (\d{1,15}))?")


@dataclass(frozen=True)
class Counts:
    """Sessions without a place, and arrivals, of one gateway or of several."""

    num_queued: int = 0
    """They need a stage and a decoder."""
    num_stageless: int = 0
    """They lost their stage."""
    num_decoderless: int = 0
    """They lost their decoder."""
    num_lately: int = 0
    """Asked for a place in the last minute."""
    num_before: int = 0
    """Did so in the 14 minutes before that."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.num_queued + other.num_queued,
            self.num_stageless + other.num_stageless,
            self.num_decoderless + other.num_decoderless,
            self.num_lately + other.num_lately,
            self.num_before + other.num_before,
        )

    def waiting(self, kind: Kind) -> int:
        """Sessions that need a place there."""
        return self.num_queued + (self.num_stageless if kind == "stage" else self.num_decoderless)

    @property
    def crowd(self) -> float:
        """Sessions that came lately beyond what is usual."""
        return crowd(self.num_lately, self.num_before, BEFORE_S / LATELY_S)

    def pack(self) -> str:
        """The first three numbers alone are what earlier versions write and read."""
        return " ".join(str(number) for number in astuple(self))

    @classmethod
    def unpack(cls, stored: bytes) -> "Counts":
        """All 0 for what another version writes in another way; nobody counts more than a million."""
        found = COUNTS.match(stored)
        return cls(*(min(int(number), MAX_COUNT) for number in found.groups("0"))) if found else cls()


@dataclass(frozen=True)
class Said:
    """What one gateway says of one component."""

    kind: Kind
    wish: int | None = None
    """The highest since the last exchange; None: it knows too little."""
    offer: int | None = None
    """Sessions per pod; None: no pod offers any."""


@dataclass(frozen=True)
class Heard:
    """What all of them say."""

    wishes: tuple[tuple[float, int], ...]
    """(seconds that it still counts, pods), this gateway's own included."""
    offer: int | None
    """The last that anybody saw."""


class SharedDemand(RedisCalls):
    """With a connection of its own, so that it waits for nobody's journal, and no journal for it."""

    def __init__(
        self,
        client: Redis,
        prefix: str,
        owner: str,
        *,
        window_s: float,
        ttl_s: float,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`owner`: this gateway. `ttl_s`: how long what it says counts. `clock` None: Redis's."""
        super().__init__(client, CALL_TIMEOUT_S, max_calls=2)
        self._keys = [f"{prefix}:{{scaler}}:{name}" for name in ("gateways", "wishes", "offers")]
        self._owner = owner
        self._window_ms = round(window_s * 1000)
        self._ttl_ms = round(ttl_s * 1000)
        self._clock = clock

    async def exchange(self, counts: Counts, said: Iterable[Said]) -> tuple[Counts, list[Heard]]:
        """(sum of the other gateways' counts, what all say of each component). Raises StoreUnavailable."""
        times = (self._ttl_ms, self._window_ms, BUCKET_MS, WISHES_KEPT_MS, OFFERS_KEPT_MS)
        words = [word for each in said for word in (each.kind, text(each.wish), text(each.offer))]
        others, *heard = await self._script(
            EXCHANGE, self._keys, self._now(), self._owner, counts.pack(), *times, *words
        )
        return sum(map(Counts.unpack, others), Counts()), [read(*each) for each in heard]

    async def leave(self) -> None:
        """What this gateway said no longer counts, except for its wishes. Raises StoreUnavailable."""
        await self._do("HDEL", self._keys[0], self._owner)

    def _now(self) -> str:
        return str(int(self._clock() * 1000)) if self._clock else ""


def text(number: int | None) -> str:
    """Empty for None."""
    return "" if number is None else str(number)


def read(wishes: Iterable[tuple[bytes, bytes]], offer: bytes | None = None) -> Heard:
    """From a script's answer, which ends before a nil."""
    alive: Any = ((int(left_ms) / 1000, min(int(wish), MAX_COUNT)) for left_ms, wish in wishes)
    return Heard(tuple(alive), max(1, int(offer)) if offer else None)
