"""Who owns a session: the stream with the highest epoch. Older owners are told to stop."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.common.errors import Fenced, NotReady

KEPT_S = 600.0
"""How long an epoch is remembered after its session's last stream, as the contracts say."""
MAX_KEPT = 65_536
"""Sessions without a stream that are remembered; those that ended first are forgotten first."""
HANDOVER_S = 5.0
"""Time an older stream has to leave; it gives up what it holds within a turn of the event loop."""

Leave = Callable[[Fenced], None]


class Hold:
    """One stream's hold on its session."""

    def __init__(self, epoch: int, leave: Leave | None) -> None:
        self.epoch = epoch
        self.gone = asyncio.Event()
        """The stream holds nothing any more."""
        self._leave = leave
        self._fenced: asyncio.Future[Fenced] = asyncio.get_running_loop().create_future()

    def fence(self, successor: int) -> None:
        """A stream with a higher epoch came."""
        error = Fenced(f"epoch {successor} of this session has come", epoch=successor)
        self._fenced.set_result(error)
        if self._leave:
            self._leave(error)
            self.gone.set()

    async def watch(self) -> None:
        """Raises Fenced when a newer stream takes over; until then it does not return."""
        raise await asyncio.shield(self._fenced)


class Epochs:
    """The highest epoch seen of each session, as long as it is remembered."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, kept_s: float = KEPT_S, max_kept: int = MAX_KEPT
    ) -> None:
        self._clock = clock
        self._kept_s = kept_s
        self._max_kept = max_kept
        self._held: dict[str, Hold] = {}
        self._kept: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Epoch, and until when it counts, by the time at which the last stream ended."""

    def check(self, session: str, epoch: int) -> None:
        """Raise Fenced unless the epoch is above all that were seen."""
        self._forget_old()
        held = self._held.get(session)
        highest = held.epoch if held else self._kept.get(session, (0, 0.0))[0]
        if epoch <= highest:
            raise Fenced(f"epoch {epoch} is not above {highest}", epoch=highest)

    @asynccontextmanager
    async def hold(self, session: str, epoch: int, leave: Leave | None = None) -> AsyncIterator[Hold]:
        """Own the session for as long as the block lasts. Entered once an older stream has left.

        `leave`: called when a newer stream comes, and gives up what this one holds before it returns; the
        newer one then does not wait. Without it the block has to end, for which `Hold.watch` tells.
        Raises Fenced, or NotReady where an older stream does not leave.
        """
        self.check(session, epoch)
        older = self._held.get(session)
        self._kept.pop(session, None)
        hold = self._held[session] = Hold(epoch, leave)
        try:
            if older:
                await take_over(older, epoch)
            yield hold
        finally:
            hold.gone.set()
            if self._held.get(session) is hold:
                del self._held[session]
                self._keep(session, epoch)

    def _keep(self, session: str, epoch: int) -> None:
        self._kept[session] = (epoch, self._clock() + self._kept_s)
        if len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)

    def _forget_old(self) -> None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values()))[1] <= now:
            self._kept.popitem(last=False)


async def take_over(older: Hold, epoch: int) -> None:
    """Fence the older stream and wait until it has left."""
    older.fence(epoch)
    try:
        async with asyncio.timeout(HANDOVER_S):
            await older.gone.wait()
    except TimeoutError:
        raise NotReady("the session's older stream does not leave; retry soon") from None
