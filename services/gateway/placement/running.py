"""The sessions that run, here and at other gateways: their places are not for those who queue, also while a
gateway is lost and nobody has taken its sessions over yet."""

from collections.abc import Callable
from itertools import chain

from services.common.wakeup import Wakeup
from services.gateway.journal import Journal, RunningSession

TELL_AGAIN_S = 1.0
"""Of all that run here, should Redis have lost them."""
ALL = 2**30
"""More places than there are."""


class RunningSessions:
    """Belongs to one event loop. Sets no timer: `share` is called often, and at once after `news`."""

    def __init__(
        self, clock: Callable[[], float], patience_s: float, doubt_s: float, changed: Callable[[], None]
    ) -> None:
        """`patience_s`: how long places are kept for sessions that do not take them. `doubt_s`: how long all
        are, after somebody left a place and the other gateways could not be asked who. `changed`: places may
        be free now."""
        self._clock = clock
        self._patience_s = patience_s
        self._doubt_s = doubt_s
        self._changed = changed
        self._mine: dict[str, RunningSession] = {}
        self._others: dict[str, RunningSession] = {}
        self._untold: set[str] = set()
        self._over: set[str] = set()
        self._told_s = self._asked_s = float("-inf")
        self._doubted_s: float | None = None
        self._short_since: dict[tuple[str, str], float] = {}
        self.is_shared = False
        """Whether `share` is called at all."""
        self.news = Wakeup()
        """Others are to be told something, or to be asked."""
        self._moved = Wakeup()

    # What runs here.

    def put(self, running: RunningSession) -> None:
        """It runs here, or what it needs has changed."""
        if self._mine.get(running.session) != running:
            self._mine[running.session] = running
            self._over.discard(running.session)
            self._untold.add(running.session)
            self._tell()

    def forget(self, session: str) -> None:
        """It leaves this gateway; whoever takes it over speaks of it."""
        self._mine.pop(session, None)
        self._untold.discard(session)

    def drop(self, session: str) -> None:
        """It needs no places any more."""
        if session in self._mine or session in self._others:
            self.forget(session)
            self._over.add(session)
            self._tell()

    async def yield_asked(self, session: str) -> None:
        """Until another session has what this one waits for, and waits for what this one has: of two such the
        one whose id is less keeps what it has."""
        while not self._must_yield(session):
            await self._moved.wait()

    # What runs elsewhere.

    def doubt(self) -> None:
        """A place was left that another gateway's session had: whether that is over, only others know."""
        if self.is_shared:
            self._doubted_s = self._clock()
            self.news.fire()

    def num_kept(self, kind: str, model: str, num_there: int) -> int:
        """Places to be kept for sessions of other gateways, of which so many have theirs there."""
        now_s = self._clock()
        if self._doubted_s is not None and now_s - self._doubted_s < self._doubt_s:
            return ALL
        num_short = self._num_elsewhere(kind, model) - num_there
        if num_short <= 0:
            self._short_since.pop((kind, model), None)
            return 0
        since_s = self._short_since.setdefault((kind, model), now_s)
        return num_short if now_s - since_s < self._patience_s else 0

    async def share(self, journal: Journal, every_s: float) -> None:
        """Tell and hear what is new; with nothing to tell and nobody who waits for it, that often. Raises
        StoreUnavailable."""
        asked_s = self._clock()
        is_urgent = self._untold or self._over or self._short_since or self._doubted_s is not None
        if not is_urgent and asked_s - self._asked_s < every_s:
            return
        is_all = asked_s - self._told_s >= TELL_AGAIN_S
        told = set(self._mine) if is_all else self._untold & self._mine.keys()
        over = set(self._over)
        self._untold -= told
        try:
            running = await journal.share_running([self._mine[session] for session in told], over)
        except BaseException:
            self._untold |= told
            self._changed()  # what was doubted for long enough is free
            raise
        self._asked_s = asked_s
        self._told_s = asked_s if is_all else self._told_s
        self._over -= over - self._mine.keys()
        self._others = {one.session: one for one in running if one.session not in {*self._mine, *over}}
        if self._doubted_s is not None and self._doubted_s <= asked_s:
            self._doubted_s = None
        self._moved.fire()
        self._changed()

    def _tell(self) -> None:
        self._moved.fire()
        self.news.fire()

    def _num_elsewhere(self, kind: str, model: str) -> int:
        return sum(
            kind in one.needs and (kind == "decoder" or one.model == model) for one in self._others.values()
        )

    def _must_yield(self, session: str) -> bool:
        mine = self._mine.get(session)
        if mine is None or not mine.lacks or not (held := mine.needs - mine.lacks):
            return False
        return any(
            other.session < session
            and other.model == mine.model
            and held <= other.lacks
            and mine.lacks <= other.needs - other.lacks
            for other in chain(self._mine.values(), self._others.values())
        )
