"""When blocks are asked for: what holds whatever the player says, and a simulated run of a whole chain."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from statistics import median

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.session.just_in_time import (
    FIRST_HALF_S,
    FIRST_MARGIN_S,
    LEAST_MARGIN_S,
    MOST_MARGIN_S,
    JustInTime,
    Margin,
    Playback,
    Recent,
)

BLOCK_S = 0.75


def start_s(block: int) -> float:
    """As a model of three latent frames a block has it, at 16 pictures a second."""
    return max(0.0, (12 * block - 3) / 16) if block else 0.0


class Clock:
    """Events in order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def at(self, delay_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay_s, next(self._number), event))

    def run(self, lasts_s: float) -> None:
        end_s = self.now + lasts_s
        while self._events and self._events[0][0] < end_s:
            self.now, _, event = heapq.heappop(self._events)
            event()


class Session:
    """What the gateway holds of it."""

    def __init__(self, max_unacked: int = 2, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.planner = JustInTime(start_s, self.now)
        self.max_unacked = max_unacked
        self.num_had = 0
        self.made = 0
        self.asked = 0
        self.sent = 0

    @property
    def now(self) -> float:
        return self.clock.now

    @now.setter
    def now(self, now: float) -> None:
        self.clock.now = now

    @property
    def limit(self) -> int:
        """As far as acks allow."""
        return self.num_had + self.max_unacked

    def ask(self) -> None:
        end = self.planner.end(self.made, self.limit, self.now)
        assert self.made <= end <= max(self.limit, self.made)
        for block in range(self.asked, end):
            self.planner.making.asked(block, self.now)
        self.asked = max(self.asked, end)

    def make(self) -> None:
        """One block and its segment, if one is asked for."""
        if self.made < self.asked:
            self.planner.making.made(self.made, self.now)
            self.made += 1
            self.planner.making.sent(self.sent, self.now)
            self.sent += 1

    def ack(self, sequence: int, has: Playback | None) -> None:
        self.num_had = max(self.num_had, sequence)
        if has:
            self.planner.heard(has, sequence, self.now)


seconds = st.floats(0, 2.0**31)
playbacks = st.builds(Playback, seconds, st.floats(0, 3600), st.integers(0, 2**32 - 1), st.booleans())
steps = st.one_of(
    st.tuples(st.just("wait"), st.floats(0, 5)),
    st.tuples(st.just("make"), st.none()),
    st.tuples(st.just("ack"), playbacks),
    st.tuples(st.just("play"), st.integers(0, 3)),
    st.tuples(st.just("leave"), st.none()),
    st.tuples(st.just("lose"), st.none()),
)


@given(st.lists(steps, max_size=60), st.integers(1, 8), playbacks)
def test_whatever_a_controller_says_no_block_waits_for_good_and_none_is_beyond_credit(
    script: list[tuple[str, object]], max_unacked: int, last: Playback
) -> None:
    """Lies, leaps, standstills, other players and lost machines: in the end, with a player that says the
    same for ever, all that credit allows is asked for within the time that it plays."""
    session = Session(max_unacked)
    for what, value in script:
        match what, value:
            case "wait", float() as seconds_s:
                session.now += seconds_s
            case "make", _:
                session.make()
            case "ack", Playback() as has if session.sent:
                session.ack(max(1, min(session.num_had, session.sent)), has)
            case "play", int() as number if session.sent:
                session.ack(min(session.num_had + number, session.sent) or 1, None)
            case "leave", _:
                session.planner.forget_player()
            case "lose", _:
                session.planner.making.forget_asked()
                session.planner.making.ready(session.now)
                session.asked = session.made
        session.ask()
    for _ in range(200):
        session.now += BLOCK_S / 2
        if session.sent:
            session.ack(min(session.num_had, session.sent) or 1, last)
        session.ask()
        session.make()
    assert session.sent == session.limit


@given(st.lists(st.tuples(st.sampled_from(["stall", "scarce", "calm"]), st.floats(0.001, 600))))
def test_the_margin_grows_at_once_comes_down_slowly_and_has_bounds(moves: list[tuple[str, float]]) -> None:
    now, margin = 0.0, Margin(0.0)
    for what, lasts_s in moves:
        before = margin.at(now)
        if what == "calm":
            now += lasts_s
            assert LEAST_MARGIN_S <= margin.at(now) <= before
            assert margin.at(now) >= before * 0.5 ** (lasts_s / FIRST_HALF_S) - 1e-9
        else:
            margin.grow(2.0 if what == "stall" else 1.5, now)
            assert margin.at(now) > before or margin.at(now) == MOST_MARGIN_S
        assert LEAST_MARGIN_S <= margin.at(now) <= MOST_MARGIN_S


@given(st.lists(st.floats(0, 100), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_recent_is_a_share_of_the_newest(values: list[float], share: float) -> None:
    recent = Recent(32, share)
    for value in values:
        recent.add(value)
    newest = values[-32:]
    assert recent.seconds in newest
    assert sum(value <= recent.seconds for value in newest) >= share * (len(newest) - 1)
    if len(newest) <= 8:
        assert recent.seconds == max(newest)


def test_without_a_word_of_the_player_all_that_credit_allows_is_asked_for() -> None:
    session = Session(max_unacked=4)
    session.ask()
    assert session.asked == 4
    for _ in range(3):
        session.now += 0.1
        session.make()
    session.ack(1, None)
    session.ask()
    assert session.asked == 5
    assert session.planner.lead_s(session.now) is None
    assert session.planner.ahead_s(session.sent, session.now) is None


class Stage:
    """Makes one block at a time: of the session whose next one is due first, as the engine counts it."""

    def __init__(self, tick_s: Callable[[], float]) -> None:
        self._tick_s = tick_s
        self._due_s: dict[int, float] = {}
        self._asking: dict[int, Callable[[], None]] = {}
        self._is_busy = False

    def ask(self, world: "World") -> None:
        self._due_s.setdefault(id(world), world.session.now)
        self._asking[id(world)] = lambda: self._begin(world)
        self._go_on()

    def _go_on(self) -> None:
        if self._asking and not self._is_busy:
            first = min(self._asking, key=lambda each: self._due_s[each])
            self._asking.pop(first)()

    def _begin(self, world: "World") -> None:
        self._is_busy = True
        world.begins()
        world.at(self._tick_s(), lambda: self._end(world))

    def _end(self, world: "World") -> None:
        self._is_busy = False
        now = world.session.now
        self._due_s[id(world)] = max(self._due_s[id(world)], now) + BLOCK_S
        world.made()
        self._go_on()


@dataclass
class World:
    """A player, its network, a decoder and a stage, all of them made up, around a planner."""

    tick_s: Callable[[], float] = lambda: 0.2
    decode_s: Callable[[], float] = lambda: 0.08
    delivery_s: Callable[[], float] = lambda: 0.03
    is_just_in_time: bool = True
    session: Session = field(default_factory=Session)
    stalls: int = 0
    stood_s: float = 0.0
    playhead_s: float = 0.0
    buffer_end_s: float = 0.0
    is_waiting: bool = True
    begun: int = 0
    ages_s: list[float] = field(default_factory=list)
    """How long before the picture the making of each block began: what a switch has to wait for."""
    begun_at: dict[int, float] = field(default_factory=dict)
    stage: Stage | None = None
    """None: one of its own."""
    _is_making: bool = False

    def at(self, delay_s: float, event: Callable[[], None]) -> None:
        self.session.clock.at(delay_s, event)

    def start(self) -> None:
        self.stage = self.stage or Stage(self.tick_s)
        self.at(0.0, self.look)
        self.at(0.0, self.play)

    def run(self, lasts_s: float) -> None:
        self.start()
        self.session.clock.run(lasts_s)

    # Gateway and stage.

    def look(self) -> None:
        session = self.session
        session.ask()
        if not self._is_making and session.made < session.asked:
            self._is_making = True
            assert self.stage
            self.stage.ask(self)
        elif session.asked < session.limit:
            wait_s = session.planner.wait_s(max(session.asked, session.made), session.now)
            self.at(wait_s + 0.001, self.look)

    def begins(self) -> None:
        self.begun_at[self.session.made] = self.session.now

    def made(self) -> None:
        session, block = self.session, self.session.made
        session.planner.making.made(block, session.now)
        session.made, self._is_making = block + 1, False
        self.at(self.decode_s(), lambda: self.sent(block))
        self.look()

    def sent(self, block: int) -> None:
        self.session.planner.making.sent(block, self.session.now)
        self.session.sent = block + 1
        self.at(self.delivery_s(), lambda: self.came(block))

    # The player.

    def came(self, block: int) -> None:
        self.buffer_end_s = start_s(block + 1)
        self.tell()

    def play(self) -> None:
        """Every hundredth of a second, as a page would that begins with two segments."""
        step_s, left_s = 0.01, self.buffer_end_s - self.playhead_s
        if self.is_waiting:
            self.stood_s += step_s if self.begun else 0.0
            if left_s > 1.2 * BLOCK_S:
                self.is_waiting = False
                self.tell()
        elif left_s <= step_s:
            self.is_waiting = True
            self.stalls += 1
            self.tell()
        else:
            self.playhead_s += step_s
        while not self.is_waiting and start_s(self.begun) <= self.playhead_s:
            self.ages_s.append(self.session.now - self.begun_at[self.begun])
            self.begun += 1
            self.tell()
        self.at(step_s, self.play)

    def tell(self) -> None:
        if not self.begun:
            return
        has = Playback(self.playhead_s, self.buffer_end_s - self.playhead_s, self.stalls, self.is_waiting)
        sequence = self.begun
        self.at(0.02, lambda: self.heard(sequence, has))

    def heard(self, sequence: int, has: Playback) -> None:
        self.session.ack(sequence, has if self.is_just_in_time else None)
        self.look()


def late_ages_s(world: World) -> list[float]:
    """Once it has found its pace."""
    return sorted(world.ages_s[8:])


def test_a_block_is_made_right_before_it_is_needed_and_the_picture_never_stands_still() -> None:
    before, after = World(is_just_in_time=False), World()
    before.run(120)
    after.run(120)
    assert before.stalls == after.stalls == 0
    assert after.begun >= before.begun - 1 > 150
    lead_s = after.session.planner.lead_s(after.session.now)
    assert lead_s
    assert 0.2 + 0.08 + 0.05 + LEAST_MARGIN_S <= lead_s <= 0.2 + 0.08 + 0.05 + FIRST_MARGIN_S + 0.01
    assert max(late_ages_s(after)) < 0.8 < 1.4 < min(late_ages_s(before))


def test_each_step_is_timed_from_when_it_was_free_and_neither_openings_nor_losses_count() -> None:
    making = JustInTime(start_s, 0.0).making
    for block in (0, 1):
        making.asked(block, 1.0)
    making.made(0, 1.5)
    making.made(1, 1.75)
    making.ready(3.0)
    making.begun(0, 3.125)
    making.sent(0, 3.5)
    making.begun(1, 3.625)
    assert making.whole.seconds is None
    assert making.there(lambda block: block < 1, 4.125, is_news=True) == [0]
    assert making.after.seconds == 0.125 + 1.0, "to the first part, and from there to the player"
    assert making.whole.seconds == 0.5 + 0.125 + 1.0
    assert making.there(lambda _: True, 9.0, is_news=False) == [1]
    assert making.whole.seconds == 0.5 + 0.125 + 1.0, "the second took 0.25 + 0.125 s, and maybe more"
    making.asked(2, 10.0)
    making.forget_asked()
    making.made(2, 19.0)
    making.begun(1, 19.0)  # again, by a decoder that took over
    making.sent(2, 19.25)
    assert making.there(lambda _: True, 21.5, is_news=True) == [2]
    assert making.after.seconds == 0.25 + 2.25
    assert making.whole.seconds == 0.5 + 0.125 + 1.0


def test_the_least_lead_is_kept() -> None:
    world = World()
    world.session.planner = JustInTime(start_s, 0.0, least_lead_s=1.2)
    world.run(120)
    assert world.session.planner.lead_s(world.session.now) == 1.2
    assert all(1.1 < age_s < 1.3 for age_s in late_ages_s(world))


def test_under_jitter_it_stands_still_hardly_more_than_without() -> None:
    """Stage, decoder and network are slow now and then: one stall makes the lead longer, and the next such
    time goes by unseen."""

    def world(*, is_just_in_time: bool) -> World:
        chance = random.Random(7)
        return World(
            tick_s=lambda: 0.2 + chance.expovariate(20),
            decode_s=lambda: 0.08 + chance.expovariate(50),
            delivery_s=lambda: 0.03 + (0.4 if chance.random() < 0.02 else chance.expovariate(50)),
            is_just_in_time=is_just_in_time,
        )

    before, after = world(is_just_in_time=False), world(is_just_in_time=True)
    before.run(600)
    after.run(600)
    assert before.stalls == 0
    assert after.stalls <= 2
    assert after.begun > 700
    assert sum(late_ages_s(after)) < 0.85 * sum(late_ages_s(before))


def test_three_sessions_of_one_stage_are_each_made_just_in_time() -> None:
    """They take nine tenths of it, and wait for each other."""

    def worlds(*, is_just_in_time: bool) -> list[World]:
        clock, stage = Clock(), Stage(lambda: 0.22)
        some = [
            World(stage=stage, session=Session(2, clock), is_just_in_time=is_just_in_time) for _ in range(3)
        ]
        for number, world in enumerate(some):
            clock.at(0.3 * number, world.start)
        clock.run(120)
        return some

    before, after = worlds(is_just_in_time=False), worlds(is_just_in_time=True)
    assert [world.stalls for world in before] == [0, 0, 0]
    assert sum(world.stalls for world in after) <= 1
    assert all(world.begun > 150 for world in after)
    for was, world in zip(before, after, strict=True):
        assert median(late_ages_s(world)) < 0.85 * median(late_ages_s(was))


def test_what_is_made_too_slowly_is_made_as_soon_as_credit_allows() -> None:
    """Nothing is held back then: the picture stands still no longer than it must."""
    before, after = World(tick_s=lambda: 0.9, is_just_in_time=False), World(tick_s=lambda: 0.9)
    before.run(300)
    after.run(300)
    assert after.begun >= before.begun - 2
    assert after.stood_s <= before.stood_s + 2
