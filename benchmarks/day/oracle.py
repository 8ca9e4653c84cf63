"""The least that somebody could pay who knows the day in advance and lets nobody wait. Pure.

Sessions are packed perfectly at every moment (moving one costs nothing), so ceil(sessions / places) pods are
needed. A pod that starts is paid from its order until it is ready; one that is not needed for a shorter time
than that is kept. No scaler that lets nobody wait can pay less: it is a lower bound, not a policy.
"""

from collections.abc import Iterator
from itertools import pairwise

from benchmarks.day.demand import Visit

Span = tuple[float, float]


def least_pod_seconds(visits: list[Visit], max_sessions: int, start_s: float, end_s: float) -> float:
    """Pod-seconds of the oracle until `end_s`. `start_s`: the shortest time in which a pod comes."""
    steps = [(min(at, end_s), load) for at, load in loads(visits)]
    most = max((load for _, load in steps), default=0)
    total = 0.0
    for level in range(0, most, max_sessions):
        needed = bridge(list(spans(steps, level)), start_s)
        total += sum(end - start + min(start_s, start) for start, end in needed)
    return total


def loads(visits: list[Visit]) -> Iterator[tuple[float, int]]:
    """(from when, sessions at once), by time."""
    changes = [(visit.arrival_s, 1) for visit in visits]
    changes += [(visit.arrival_s + visit.length_s, -1) for visit in visits]
    load = 0
    for at, change in sorted(changes):
        load += change
        yield at, load


def spans(steps: list[tuple[float, int]], above: int) -> Iterator[Span]:
    """When more than `above` sessions are there."""
    start = None
    for (at, load), (_, before) in zip(steps, [(0.0, 0), *steps], strict=False):
        if load > above >= before:
            start = at
        elif load <= above < before and start is not None:
            yield start, at


def bridge(needed: list[Span], gap_s: float) -> list[Span]:
    """Spans joined over the gaps that are shorter than `gap_s`."""
    joined = needed[:1]
    for (_, last), (start, end) in pairwise(needed):
        if start - last < gap_s:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined
