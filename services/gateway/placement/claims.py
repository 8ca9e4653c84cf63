"""A claim to places that somebody waits for: granted, or given up, exactly once."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from cascade.v1.decoder_pb2 import DecoderStatus
from cascade.v1.session_pb2 import QueueStatus
from cascade.v1.stage_pb2 import StageStatus
from cascade_core.errors import SessionClosed
from services.common.wakeup import Wakeup
from services.gateway.placement.ledger import Ledger
from services.gateway.placement.slots import Slot, Wish


class Claim:
    """One place in each of some ledgers, all at once."""

    def __init__(
        self,
        wish: Wish,
        ledgers: tuple[Ledger[Any], ...],
        give_up: Callable[["Claim"], None],
        avoid: Collection[str] = (),
    ) -> None:
        """`give_up`: nobody waits any more. `avoid`: addresses where no place will do."""
        self.wish = wish
        self.ledgers = ledgers
        self.avoid = frozenset(avoid)
        self.need = str((ledgers, wish.need, sorted(self.avoid)))  # a string keeps its hash
        """Equal where the same places do."""
        self.coming: dict[Ledger[Any], Slot[Any]] = {}
        """Places that were revoked for this claim."""
        self.position = 0
        """In the queue, from 1; 0: not in it."""
        self.moved = Wakeup()
        self._give_up = give_up
        self._done = asyncio.Event()
        self._slots: tuple[Slot[Any], ...] = ()

    def grant(self, slots: tuple[Slot[Any], ...]) -> None:
        """Here they are."""
        self._slots = slots
        self._end()

    def move(self, position: int) -> None:
        """Another place in the queue."""
        if position != self.position:
            self.position = position
            self.moved.fire()

    async def wait(self) -> tuple[Slot[Any], ...]:
        """The slots, one per ledger, which the caller owns from here on. Cancelled: the claim is given up.
        Raises SessionClosed after it was given up or taken."""
        try:
            await self._done.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        slots, self._slots = self._slots, ()
        if not slots:
            raise SessionClosed(f"session {self.wish.session} does not wait for a place any more")
        return slots

    def cancel(self) -> None:
        """Give the claim up, and the slots where nobody has taken them yet."""
        if not self._done.is_set():
            self._give_up(self)
            self._end()
        slots, self._slots = self._slots, ()
        for slot in slots:
            slot.release()

    @property
    def is_done(self) -> bool:
        """Granted or given up."""
        return self._done.is_set()

    def _end(self) -> None:
        self.position = 0
        self._done.set()
        self.moved.fire()


@dataclass(frozen=True)
class Seats:
    """What a session runs on."""

    stage: Slot[StageStatus]
    decoder: Slot[DecoderStatus]


class Ticket:
    """A session's place in the queue. Who has one either waits for it to the end, or cancels."""

    def __init__(self, claim: Claim, describe: Callable[[int], QueueStatus]) -> None:
        self._claim = claim
        self._describe = describe

    @property
    def status(self) -> QueueStatus:
        """As of now; position 0 once it is not in the queue any more."""
        return self._describe(self._claim.position)

    async def wait(self) -> Seats:
        """Until it is served; the caller owns the seats. Cancelled: as `cancel`. Raises SessionClosed where
        somebody else cancelled, and the second time."""
        stage, decoder = await self._claim.wait()
        return Seats(stage, decoder)

    def cancel(self) -> None:
        """Leave the queue. Nothing after `wait` has returned."""
        self._claim.cancel()

    async def changed(self) -> None:
        """Until the position is another, or the wait is over; at once where it is."""
        if not self._claim.is_done:
            await self._claim.moved.wait()
