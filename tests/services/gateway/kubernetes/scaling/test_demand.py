"""How many pods there should be: the arithmetic, and what holds for every cluster."""

import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.kubernetes.scaling.demand import (
    PodLoad,
    crowd,
    desired_pods,
    num_expected,
    num_replicas,
    past_tolerance,
    usual_sessions,
)
from services.gateway.kubernetes.scaling.window import Window

IDLE, BUSY, FULL = PodLoad(0, 4), PodLoad(1, 4), PodLoad(4, 4)
STARTING = PodLoad()
QUARANTINED = PodLoad(2, 0, is_out=True)
DRAINING = PodLoad(2, 0)
LEAVING = PodLoad(2, 0, is_leaving=True)


@st.composite
def any_pods(draw: st.DrawFn) -> list[PodLoad]:
    def one(num_sessions: int, max_sessions: int, kind: str) -> PodLoad:
        offers = max_sessions if kind == "ready" else 0
        return PodLoad(num_sessions, offers, is_leaving=kind == "leaving", is_out=kind == "out")

    kinds = st.sampled_from(["ready", "ready", "starting", "draining", "out", "leaving"])
    return draw(st.lists(st.builds(one, st.integers(0, 9), st.integers(1, 8), kinds), max_size=40))


waiting = st.integers(0, 500)
spares = st.integers(0, 20)
offers = st.integers(1, 8)


@pytest.mark.parametrize(
    ("pods", "num_waiting", "num_spare", "expected"),
    [
        ([], 0, 0, 0),  # to zero
        ([], 1, 0, 1),  # from zero
        ([], 9, 0, 3),
        ([], 0, 1, 1),
        ([IDLE, IDLE, IDLE], 0, 0, 0),
        ([IDLE, IDLE, IDLE], 0, 1, 1),
        ([BUSY], 3, 0, 1),  # the free places of a busy pod come first
        ([BUSY], 3, 1, 2),
        ([BUSY, BUSY, BUSY], 0, 1, 3),  # three sessions would fit on one pod, and sit on three
        ([FULL], 0, 1, 2),
        ([FULL], 1, 0, 2),
        ([FULL, STARTING, STARTING], 1, 0, 2),  # those that start are neither busy nor asked for twice
        ([FULL, STARTING, STARTING], 12, 0, 4),
        ([FULL, QUARANTINED], 0, 0, 3),  # it stays, and its two sessions need another pod
        ([IDLE, replace(QUARANTINED, num_sessions=0)], 0, 1, 2),  # it stays beside the one that is needed
        ([FULL, DRAINING], 0, 0, 3),
        ([BUSY, DRAINING], 0, 0, 2),  # its sessions fit on the other
        ([FULL, LEAVING], 0, 0, 2),  # no replica any more, but its sessions need a place
        ([BUSY, LEAVING], 0, 0, 1),
        ([BUSY, replace(LEAVING, num_sessions=0)], 0, 0, 1),  # what scale-down removed stays removed
        ([PodLoad(5, 4)], 0, 0, 1),  # an overbooked pod has no negative places
    ],
)
def test_known_cases(pods: list[PodLoad], num_waiting: int, num_spare: int, expected: int) -> None:
    assert desired_pods(pods, num_waiting, num_spare, sessions_per_pod=4) == expected


@settings(deadline=None)
@given(any_pods(), waiting, spares, offers)
def test_never_below_busy_and_never_more_than_a_pod_per_session(
    pods: list[PodLoad], num_waiting: int, num_spare: int, offer: int
) -> None:
    desired = desired_pods(pods, num_waiting, num_spare, offer)
    staying = [pod for pod in pods if not pod.is_leaving]
    assert desired >= sum(pod.num_sessions > 0 for pod in staying)
    assert desired >= sum(pod.is_out for pod in staying)
    homeless = num_waiting + sum(pod.num_sessions for pod in pods if pod.is_leaving or not pod.max_sessions)
    assert desired <= len(staying) + math.ceil((homeless + num_spare) / offer)


@settings(deadline=None)
@given(any_pods(), waiting, spares, offers)
def test_all_that_wait_find_a_place(
    pods: list[PodLoad], num_waiting: int, num_spare: int, offer: int
) -> None:
    """Where the pods that are not busy are of the usual size, so many pods have enough places."""
    kept = [pod for pod in pods if not pod.is_leaving and (pod.num_sessions or pod.is_out)]
    num_new = desired_pods(pods, num_waiting, num_spare, offer) - len(kept)
    free = sum(max(0, pod.max_sessions - pod.num_sessions) for pod in kept if not pod.is_out)
    moving = sum(pod.num_sessions for pod in pods if pod.is_leaving or not pod.max_sessions)
    places = free + num_new * offer
    assert places >= num_waiting + num_spare + moving
    assert not num_new or places - offer < num_waiting + num_spare + moving  # and one pod less has not


@settings(deadline=None)
@given(any_pods(), waiting, spares, offers, st.integers(0, 50))
def test_more_wait_more_pods(
    pods: list[PodLoad], num_waiting: int, num_spare: int, offer: int, more: int
) -> None:
    asked = desired_pods(pods, num_waiting, num_spare, offer)
    assert desired_pods(pods, num_waiting + more, num_spare, offer) >= asked
    assert desired_pods(pods, num_waiting, num_spare + more, offer) >= asked
    assert desired_pods(pods, num_waiting, num_spare, offer + more) <= asked


@pytest.mark.parametrize(
    ("num_lately", "num_before", "least", "most"),
    [
        (0, 0, 0, 0),
        (1, 0, 0, 0),  # the first session after a quiet while
        (4, 28, 0, 0),  # two a minute, and four by chance
        (20, 28, 15, 16),
        (20, 280, 0, 0),  # twenty a minute all the time
        (30, 280, 1, 2),
        (0, 280, 0, 0),
    ],
)
def test_a_crowd_is_what_chance_does_not_explain(
    num_lately: int, num_before: int, least: float, most: float
) -> None:
    assert least <= crowd(num_lately, num_before, 14) <= most


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 500), st.floats(0, 20))
def test_a_crowd_asks_for_no_more_than_its_factor(
    num_lately: int, num_before: int, num_present: int, factor: float
) -> None:
    coming = num_expected(crowd(num_lately, num_before, 14), num_present, factor)
    assert 0 <= coming <= math.ceil(factor * min(num_lately, num_present))


@settings(deadline=None)
@given(any_pods())
def test_the_usual_offer_is_one_that_some_pod_could_make(pods: list[PodLoad]) -> None:
    offered = [pod.max_sessions for pod in pods if pod.max_sessions and not pod.is_leaving]
    usual = usual_sessions(pods)
    assert (usual is None) == (not offered)
    assert usual is None or min(offered) <= usual <= max(offered)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([0.0, 0.05, 0.1, 0.25]))
def test_an_hpa_makes_every_step_up(desired: int, present: int, tolerance: float) -> None:
    asked = past_tolerance(desired, present, tolerance)
    assert asked >= desired
    if desired > present:
        assert hpa(asked, present, tolerance) >= desired
        assert asked == desired or asked <= present * (1 + tolerance) + 1
    else:
        assert asked == desired


def hpa(metric: int, replicas: int, tolerance: float) -> int:
    """What a HorizontalPodAutoscaler makes of an AverageValue metric with target 1."""
    if replicas and abs(1.0 - metric / replicas) <= tolerance:
        return replicas
    return metric


@dataclass
class Cluster:
    """Pods of one size, an HPA, and placement on the fullest pod, as the gateway does it."""

    size: int
    queue: int
    pods: list[int] = field(default_factory=list)
    """Sessions of each."""

    def turn(self, num_spare: int) -> int:
        known = [PodLoad(sessions, self.size) for sessions in self.pods]
        desired = desired_pods(known, self.queue, num_spare, self.size)
        replicas = hpa(past_tolerance(desired, num_replicas(known), 0.1), len(self.pods), 0.1)
        self.pods.sort(reverse=True)
        assert all(sessions == 0 for sessions in self.pods[replicas:]), "a busy pod is killed"
        self.pods = self.pods[:replicas] + [0] * (replicas - len(self.pods))
        for index, sessions in enumerate(self.pods):
            served = min(self.queue, self.size - sessions)
            self.pods[index] += served
            self.queue -= served
        return replicas


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 300), st.lists(st.integers(0, 8), max_size=30), st.integers(0, 9))
def test_it_settles_where_everybody_is_served(
    size: int, queue: int, sessions: list[int], num_spare: int
) -> None:
    cluster = Cluster(size, queue, [min(number, size) for number in sessions])
    cluster.turn(num_spare)
    assert cluster.queue == 0
    second = cluster.turn(num_spare)
    busy = sum(number > 0 for number in cluster.pods)
    assert cluster.turn(num_spare) == second == len(cluster.pods)
    assert sum(size - number for number in cluster.pods) >= num_spare
    assert len(cluster.pods) <= (busy + math.ceil(num_spare / size)) / 0.9 + 1  # the HPA's tolerance


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_fewer_are_wanted_when_fewer_would_have_done_for_long() -> None:
    clock = Clock()
    window = Window(300.0, clock)
    assert window.highest() is None
    heights = {}
    for second in range(0, 1000, 10):
        clock.now = 1000.0 + second
        window.note(7 if second == 100 else 5 if second < 400 else 2)
        heights[second] = window.highest()
    assert [heights[second] for second in (0, 90, 100, 400, 410, 690, 700)] == [5, 5, 7, 7, 5, 5, 2]


def test_without_hysteresis_the_newest_wish_counts() -> None:
    clock = Clock()
    window = Window(0.0, clock)
    window.note(9)
    clock.now += 0.001
    assert window.highest() == 9, "until there is another"
    window.note(2)
    clock.now += 0.001
    assert window.highest() == 2


def test_what_all_share_counts_as_long_as_was_said() -> None:
    clock = Clock()
    window = Window(300.0, clock)
    window.share([(20.0, 8), (50.0, 6)])
    window.note(1)
    seen = []
    for _ in range(7):
        seen.append(window.highest())
        clock.now += 10.0
        window.note(1)
    assert seen == [8, 8, 6, 6, 6, 1, 1]
    window.share([(20.0, 4)])
    assert window.highest() == 4
    window.share([])
    assert window.highest() == 1, "what was shared before is replaced"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 50), st.integers(0, 20)), min_size=1, max_size=60),
    st.floats(0, 120),
    st.floats(0, 120),
)
def test_a_window_is_the_maximum_of_its_wishes(
    wishes: list[tuple[float, int]], length_s: float, age_s: float
) -> None:
    clock = Clock()
    window, history = Window(length_s, clock), []
    for wait_s, wish in wishes:
        clock.now += wait_s
        window.note(wish)
        history.append((clock.now, wish))
        newest = history[-1][1]
        alive = [wish for when, wish in history if when >= clock.now - length_s]
        assert window.highest() == max(*alive, newest, newest)
        young = [wish for when, wish in history if when >= clock.now - min(age_s, length_s)]
        assert window.highest_own(age_s) == max(*young, newest, newest)
