"""When a block is to be asked for, so that it is there just before the controller's player needs it.

Pure: `now` is seconds of any one clock that the caller goes by, other times are the session's own. It only
ever holds back: what it knows nothing of, or is told wrongly, is made as soon as credit allows.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
FIRST_MARGIN_S, LEAST_MARGIN_S, MOST_MARGIN_S = 0.5, 0.2, 10.0
STALLED, SCARCE = 2.0, 1.5
"""What the margin grows by when the picture stood still, and when it nearly did."""
SCARCE_S = 0.1
"""A block that comes with less than this left to play has nearly been late."""
CALM_S, HALF_S = 60.0, 300.0
"""After a calm time, half of what the margin has grown by goes in each further `HALF_S`."""
FIRST_HALF_S = 15.0
"""The same of the first margin, which stands for what is not known yet: players are busy when they begin."""
FEW = 8
MAX_UNDERWAY = 128
"""Blocks whose way is followed at a time."""
BEGUN_S = 0.02
"""More than what is buffered may lie beyond a segment's end, and less than the first pictures of one last."""


@dataclass(frozen=True)
class Playback:
    """What a player said that it has."""

    playhead_s: float
    """What is on the screen, on the session's clock."""
    buffered_s: float
    """What it can play from there."""
    num_stalls: int = 0
    is_waiting: bool = False
    """The picture stands still for want of video, or has not begun."""


class Recent:
    """The newest of some durations, and what about `share` of them do not exceed: the longest of a few, never
    that of many, so that one bad moment is not paid for until it is forgotten."""

    def __init__(self, number: int, share: float) -> None:
        self._newest: deque[float] = deque(maxlen=number)
        self._share = share
        self.seconds: float | None = None
        """None: there are none yet."""

    def add(self, seconds: float) -> None:
        self._newest.append(max(0.0, seconds))
        last = len(self._newest) - 1
        self.seconds = sorted(self._newest)[last if last < FEW else int(self._share * last)]


class Margin:
    """Grows at once, comes down slowly."""

    def __init__(self, now: float) -> None:
        self._grown_s = FIRST_MARGIN_S
        self._since, self._half_s = now, FIRST_HALF_S

    def at(self, now: float) -> float:
        left = float(0.5 ** (max(0.0, now - self._since) / self._half_s))
        return LEAST_MARGIN_S + (self._grown_s - LEAST_MARGIN_S) * left

    def grow(self, factor: float, now: float) -> None:
        self._grown_s = min(MOST_MARGIN_S, self.at(now) * factor)
        self._since, self._half_s = now + CALM_S, HALF_S


@dataclass
class Making:
    """How long the blocks took, step by step, each from when it was asked for or the step was free for it."""

    whole: Recent = field(default_factory=lambda: Recent(64, 0.95))
    """Of a block: at the stage, with the ticks of other sessions between its own; until its first pictures
    are there (the first part, where the player takes parts); from their sending to the player's word of them.
    The sum's share is less than the sum of the steps' shares."""
    after: Recent = field(default_factory=lambda: Recent(64, 0.95))
    """Of it the steps after the stage."""
    _asked: dict[int, float] = field(default_factory=dict)
    """When."""
    _made: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    """When, and how long it was at the stage; None: unknown."""
    _sent: dict[int, tuple[float, float | None, float | None]] = field(default_factory=dict)
    """The same, and how long the decoder took."""
    _last_made: float = 0.0
    _last_sent: float = 0.0
    _newest: int = -1
    """That has begun to be sent."""

    def asked(self, block: int, now: float) -> None:
        keep(self._asked, block, now)

    def made(self, block: int, now: float) -> None:
        asked = self._asked.pop(block, None)
        tick_s = None if asked is None else now - max(asked, self._last_made)
        self._last_made = now
        keep(self._made, block, (now, tick_s))

    def begun(self, block: int, now: float) -> None:
        """Its first pictures are on their way: what a player needs of it first."""
        if block <= self._newest:
            return
        self._newest = block
        made, tick_s = self._made.pop(block, (None, None))
        decode_s = None if made is None else now - max(made, self._last_sent)
        keep(self._sent, block, (now, tick_s, decode_s))

    def sent(self, block: int, now: float) -> None:
        """All of it is."""
        self.begun(block, now)
        self._last_sent = now

    def there(self, has_come: Callable[[int], bool], now: float, *, is_news: bool) -> list[int]:
        """Blocks that are there now and were not, oldest first. `is_news` False: they may have been for
        long."""
        come = sorted(block for block in self._sent if has_come(block))
        for block in come:
            sent, tick_s, decode_s = self._sent.pop(block)
            if decode_s is not None:
                after_s = decode_s + (now - sent if is_news else 0.0)
                self.after.add(after_s)
                if tick_s is not None:
                    self.whole.add(tick_s + after_s)
        return come

    def forget_asked(self) -> None:
        """Another stage: what is under way says nothing of it."""
        self._asked.clear()

    def ready(self, now: float) -> None:
        """A decoder has opened: what waited for it begins now."""
        self._last_sent = now

    def forget_sent(self) -> None:
        """Another player."""
        self._sent.clear()


def keep(known: dict[int, T], block: int, value: T) -> None:
    known.setdefault(block, value)
    if len(known) > MAX_UNDERWAY:
        del known[min(known)]


class JustInTime:
    """Of one session. `start_s`: when a block begins, on the session's clock. `least_lead_s`: however quickly
    blocks are made."""

    def __init__(self, start_s: Callable[[int], float], now: float, least_lead_s: float = 0.0) -> None:
        self.making = Making()
        self.margin = Margin(now)
        self.num_stalls = 0
        """As the player counts them."""
        self._start_s = start_s
        self._least_lead_s = least_lead_s
        self._has: Playback | None = None
        self._heard = now
        self._sequence = 0
        """The newest whose playing has begun."""
        self._begun = now
        self._is_counting = False

    def forget_player(self) -> None:
        """Another controller may be another player, and says so itself; until then nothing is held back."""
        self._has = None
        self._sequence = 0
        self._is_counting, self.num_stalls = False, 0
        self.making.forget_sent()

    def heard(self, has: Playback, sequence: int, now: float) -> bool:
        """`sequence`: the newest segment whose playing has begun. Returns whether the picture stood still
        since the last time."""
        has_begun = sequence > self._sequence
        has_stalled = self._is_counting and has.num_stalls > self.num_stalls
        if has_begun:
            self._sequence, self._begun = sequence, now
        self._has, self._heard = has, now
        self._is_counting, self.num_stalls = True, has.num_stalls
        end_s = has.playhead_s + has.buffered_s - BEGUN_S
        # With the ack of another segment it only says when that began to play.
        come = self.making.there(lambda block: self._start_s(block) <= end_s, now, is_news=not has_begun)
        if has_stalled:
            self.margin.grow(STALLED, now)
        elif come and not has_begun and not has.is_waiting and self._left_s(come[0]) < SCARCE_S:
            self.margin.grow(SCARCE, now)
        return has_stalled

    def _left_s(self, block: int) -> float:
        """What was left to play before it came, as the player last said."""
        return self._start_s(block) - self._has.playhead_s if self._has else 0.0

    def lead_s(self, now: float) -> float | None:
        """How long before its playing a block is to be asked for; None: as soon as credit allows."""
        whole_s = self.making.whole.seconds
        if self._has is None or whole_s is None:
            return None
        return max(self._least_lead_s, whole_s + self.margin.at(now))

    def needed_in_s(self, block: int, now: float) -> float | None:
        """How long until a block's latents must be there; None: unknown."""
        after_s, playhead_s = self.making.after.seconds, self.playhead_s(now)
        if after_s is None or playhead_s is None:
            return None
        return max(0.0, self._start_s(block) - playhead_s - after_s)

    def playhead_s(self, now: float) -> float | None:
        """Where the player is by now if it plays on; it may stand still, and be less far. None: unknown."""
        if self._has is None:
            return None
        told_s = self._has.playhead_s + (0.0 if self._has.is_waiting else now - self._heard)
        # Who acknowledges a segment is there, whatever else it says: so nobody waits for a block for good.
        begun_s = self._start_s(self._sequence - 1) + now - self._begun if self._sequence else 0.0
        return max(told_s, begun_s)

    def ahead_s(self, num_sent: int, now: float) -> float | None:
        """Video that is made and not played. `num_sent`: blocks whose segments are made."""
        playhead_s = self.playhead_s(now)
        return None if playhead_s is None else max(0.0, self._start_s(num_sent) - playhead_s)

    def wait_s(self, block: int, now: float) -> float:
        """Until it is to be asked for; 0: now."""
        lead_s, playhead_s = self.lead_s(now), self.playhead_s(now)
        if lead_s is None or playhead_s is None or (self._has and self._has.is_waiting):
            return 0.0
        return max(0.0, self._start_s(block) - playhead_s - lead_s)

    def end(self, first: int, limit: int, now: float) -> int:
        """Blocks from `first` below it are to be asked for now; `limit`: as far as credit allows."""
        end = first
        while end < limit and self.wait_s(end, now) == 0.0:
            end += 1
        return end
