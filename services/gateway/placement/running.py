"""The sessions that run, here and at other gateways: their places are not for those who queue, also while a
gateway is lost and nobody has taken its sessions over yet."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain

from services.common.wakeup import Wakeup
from services.gateway.journal import Journal, RunningSession
from services.gateway.peers.reports import Kind

TELL_AGAIN_S = 1.0
"""All that run here are told that often: it shows that this gateway lives, and Redis may have lost them."""
LOST_S = 3.0
"""A gateway that has said nothing for this long is lost."""
ALL = 2**30
"""More places than there are."""
Model = tuple[str, str]
"""Name and revision."""


@dataclass
class Group:
    """Sessions of other gateways that run one revision of a model, by the kind of machine."""

    needing: Counter[str] = field(default_factory=Counter)
    lacking: Counter[str] = field(default_factory=Counter)
    """Those of them that have lost what they need, or their gateway."""


@dataclass
class Shortage:
    """Fewer sessions are reported by machines than are said to run on them: by how much that grew, and
    when."""

    seen_s: float
    grown: list[tuple[float, int]] = field(default_factory=list)

    def become(self, number: int, now_s: float) -> None:
        """What came last goes first."""
        more = number - sum(count for _, count in self.grown)
        if more > 0:
            self.grown.append((now_s, more))
        while more < 0:
            since_s, count = self.grown.pop()
            more += count
            if more > 0:
                self.grown.append((since_s, more))
        self.seen_s = now_s


class RunningSessions:
    """Belongs to one event loop. Sets no timer: `share` is called often, at once where there is `news`."""

    def __init__(
        self, clock: Callable[[], float], patience_s: float, doubt_s: float, changed: Callable[[], None]
    ) -> None:
        """`patience_s`: how long a place is kept for a session that does not take it. `doubt_s`: how long one
        that a session left is, where the other gateways cannot be asked which. `changed`: places may be free
        now."""
        self._clock = clock
        self._patience_s = patience_s
        self._doubt_s = doubt_s
        self._changed = changed
        self._mine: dict[str, RunningSession] = {}
        self._others: dict[str, RunningSession] = {}
        self._untold: set[str] = set()
        self._over: set[str] = set()
        self._began_s: float | None = None
        self._told_s = self._asked_s = float("-inf")
        self._left: deque[tuple[float, Kind, int]] = deque()
        self._lacking_since: dict[str, float] = {}
        self._shortages: dict[tuple[Kind, Model], Shortage] = {}
        self._yields: dict[tuple[str, frozenset[str], frozenset[str]], str] | None = None
        self.groups: dict[Model, Group] = {}
        self.news = asyncio.Event()
        """Others are to be told something, or to be asked."""
        self._moved = Wakeup()

    def begin(self) -> None:
        """`share` is called from now on; what was told before is not known yet."""
        self._began_s = self._clock()
        self.news.set()

    # What runs here.

    def put(self, running: RunningSession) -> None:
        """It runs here, or what it needs has changed."""
        if self._mine.get(running.session) != running:
            self._mine[running.session] = running
            self._over.discard(running.session)
            self._untold.add(running.session)
            self._tell()

    def forget(self, session: str) -> None:
        """It leaves this gateway; whichever takes it over tells of it from then on."""
        self._mine.pop(session, None)
        self._untold.discard(session)

    def drop(self, session: str) -> None:
        """It needs no places any more."""
        self.forget(session)
        self._over.add(session)
        self._tell()

    async def yield_asked(self, session: str) -> None:
        """Until another session has what this one waits for, and waits for what this one has: of two such
        sessions the one with the lesser id keeps what it has."""
        await self._moved.until(lambda: self._must_yield(session))

    # What runs elsewhere.

    def left(self, kind: Kind, number: int) -> None:
        """This many of other gateways' sessions left their places: whether they are over, only others
        know."""
        if self._began_s is not None:
            self._left.append((self._clock(), kind, number))
            self._forget_left(self._clock() - self._doubt_s)
            self.news.set()

    def num_kept(self, kind: Kind, model: Model, like: Iterable[Model], num_there: int) -> int:
        """Places to keep from queued sessions of this model, for running ones of the models in `like`, which
        could use them. `num_there`: how many of these the machines report."""
        now_s = self._clock()
        if self._began_s is not None and self._asked_s < self._began_s > now_s - self._doubt_s:
            return ALL
        groups = [self.groups[each] for each in like]
        num_short = sum(group.needing[kind] for group in groups) - num_there
        num_lacking = sum(group.lacking[kind] for group in groups)
        self._forget_left(now_s - self._doubt_s)
        num_left = sum(number for _, left, number in self._left if left == kind)
        return max(num_lacking, self._num_short(kind, model, num_short, now_s)) + num_left

    async def share(self, journal: Journal, every_s: float) -> None:
        """Tell and hear what is new; with nothing to tell and nobody who waits for it, at most once in
        `every_s`. Raises StoreUnavailable."""
        asked_s = self._clock()
        self.news.clear()
        is_urgent = self._untold or self._over or self._left or self._shortages
        if not is_urgent and asked_s - self._asked_s < every_s:
            return
        is_all = asked_s - self._told_s >= TELL_AGAIN_S
        told = set(self._mine) if is_all else self._untold & self._mine.keys()
        over = set(self._over)
        self._untold -= told
        try:
            running = await journal.share_running([self._mine[session] for session in told], over)
        except BaseException:
            self._untold |= told & self._mine.keys()
            self._group()  # patience ends without Redis, too
            self._changed()  # what was left long enough ago is free
            raise
        self._asked_s = asked_s
        self._told_s = asked_s if is_all else self._told_s
        self._over -= over - self._mine.keys()
        self._hear(one for one in running if one.session not in {*self._mine, *over})
        self._forget_left(asked_s)
        self._shortages = {
            key: shortage for key, shortage in self._shortages.items() if shortage.seen_s > asked_s - LOST_S
        }
        self._move()
        self._changed()

    def _forget_left(self, until_s: float) -> None:
        while self._left and self._left[0][0] <= until_s:
            self._left.popleft()

    def _hear(self, running: Iterable[RunningSession]) -> None:
        self._others = {one.session: one for one in running}
        self._group()

    def _group(self) -> None:
        now_s = self._clock()
        self.groups = {}
        since_s: dict[str, float] = {}
        for one in self._others.values():
            group = self.groups.setdefault((one.model, one.revision), Group())
            group.needing.update(one.needs)
            lacks = one.needs if is_lost(one) else one.lacks
            if lacks:
                since_s[one.session] = self._lacking_since.get(one.session, now_s)
                if now_s - since_s[one.session] < self._patience_s:
                    group.lacking.update(lacks)
        self._lacking_since = since_s

    def _num_short(self, kind: Kind, model: Model, number: int, now_s: float) -> int:
        """Sessions missing from the reports, until it is known which: those of a lost gateway are soon known
        to be silent."""
        if number <= 0:
            self._shortages.pop((kind, model), None)
            return 0
        known = self._shortages.get((kind, model))
        if known is None or now_s - known.seen_s >= LOST_S:
            known = self._shortages[kind, model] = Shortage(now_s)
        known.become(number, now_s)
        return sum(count for since_s, count in known.grown if now_s - since_s < 2 * LOST_S)

    def _tell(self) -> None:
        self.news.set()
        self._move()

    def _move(self) -> None:
        self._yields = None
        self._moved.fire()

    def _must_yield(self, session: str) -> bool:
        mine = self._mine.get(session)
        if mine is None or not mine.lacks or not (held := mine.needs - mine.lacks):
            return False
        if self._yields is None:
            self._yields = self._find_yields()
        return self._yields.get((mine.kind, held, mine.lacks), session) < session

    def _find_yields(self) -> dict[tuple[str, frozenset[str], frozenset[str]], str]:
        """By what they lack and have, the least id of those who wait."""
        found: dict[tuple[str, frozenset[str], frozenset[str]], str] = {}
        for one in chain(self._mine.values(), self._others.values()):
            held = one.needs - one.lacks
            if one.lacks and held and not is_lost(one):
                key = one.kind, one.lacks, held
                found[key] = min(one.session, found.get(key, one.session))
        return found


def is_lost(running: RunningSession) -> bool:
    """Nobody speaks of it any more."""
    return running.silent_s > LOST_S
