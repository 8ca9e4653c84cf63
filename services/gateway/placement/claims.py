"""A claim to places that somebody waits for: granted, or given up, exactly once."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from cascade.v1.decoder_pb2 import DecoderStatus
from cascade.v1.stage_pb2 import StageStatus
from cascade_core.errors import SessionClosed
from services.common.wakeup import Wakeup
from services.gateway.placement.ledger import Ledger, Place
from services.gateway.placement.needs import Needs


class Claim:
    """One place in each of some ledgers, all at once."""

    def __init__(
        self,
        needs: Needs,
        ledgers: tuple[Ledger[Any], ...],
        give_up: Callable[["Claim"], None],
        avoid: Collection[str] = (),
    ) -> None:
        """`give_up`: nobody waits any more. `avoid`: addresses where no place will do."""
        self.ledgers = ledgers
        self.avoid = frozenset(avoid)
        self.change(needs)
        self.coming: dict[Ledger[Any], Place[Any]] = {}
        """Places that were revoked for this claim."""
        self.position = 0
        """In the queue, from 1; 0: not in it."""
        self._moved = Wakeup()
        self._give_up = give_up
        self._done = asyncio.Event()
        self._places: tuple[Place[Any], ...] = ()

    def change(self, needs: Needs) -> None:
        """What the places must offer."""
        self.needs = needs
        self.key = str((self.ledgers, needs.key, sorted(self.avoid)))  # a string keeps its hash
        """Equal where the same places do."""

    def grant(self, places: tuple[Place[Any], ...]) -> None:
        """Here they are."""
        self._places = places
        self._end()

    def move(self, position: int) -> None:
        """Another place in the queue."""
        if position != self.position:
            self.position = position
            self._moved.fire()

    async def wait(self) -> tuple[Place[Any], ...]:
        """The places, one per ledger, which the caller owns from here on. Cancelled: the claim is given up.
        Raises SessionClosed where somebody else cancelled, and when called again."""
        try:
            await self._done.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        places, self._places = self._places, ()
        if not places:
            raise SessionClosed(f"session {self.needs.session} does not wait for a place any more")
        return places

    def cancel(self) -> None:
        """Give the claim up, and the places where nobody has taken them yet."""
        if not self._done.is_set():
            self._give_up(self)
            self._end()
        places, self._places = self._places, ()
        for place in places:
            place.release()

    async def changed(self) -> None:
        """Until the position changes, or the wait is over; at once where it is."""
        if not self._done.is_set():
            await self._moved.wait()

    def _end(self) -> None:
        self.position = 0
        self._done.set()
        self._moved.fire()


@dataclass(frozen=True)
class Places:
    """What a session runs on."""

    stage: Place[StageStatus]
    decoder: Place[DecoderStatus]
