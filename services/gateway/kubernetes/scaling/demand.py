"""How many pods there should be: pure, one component (stages, or decoders) at one moment.

    desired = pods with sessions + pods out of service + pods for sessions without a place, and the spare ones

A session without a place waits in the queue, recovers from a loss, or sits on a pod that offers none any
more. While a crowd comes, those of it who are still expected count like them. Free places on pods with
sessions serve them first, as placement does. Pods without sessions are counted only as far as they are
needed, and so are those that start: the number is absolute, so pods that are on their way are never asked for
twice. The number is one of *replicas*: a pod that terminates is none.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

DEVIATIONS = 2.0
"""Of chance arrivals (Poisson): what lies within is no crowd."""
LEAST_USUAL = 0.5
"""Arrivals a minute: after an empty quarter of an hour the first sessions are no crowd yet."""


@dataclass(frozen=True)
class PodLoad:
    """One pod, as its reports and the list of pods show it."""

    num_sessions: int = 0
    """Open there, whichever gateway's, and those that have been given a place there."""
    max_sessions: int = 0
    """Places it offers, taken ones included. 0: none; it starts, drains, is quarantined or silent, and what
    sessions it has need a place elsewhere."""
    is_leaving: bool = False
    """It terminates: no replica any more, though its sessions may still be there."""
    is_out: bool = False
    """A replica that will offer nothing for long (quarantined, drained by hand, lost): another has to stand
    beside it."""


def desired_pods(pods: Collection[PodLoad], num_waiting: int, num_spare: int, sessions_per_pod: int) -> int:
    """The replicas to have: never less than those with sessions.

    `num_waiting`: sessions without any place, queued and recovering ones. `num_spare`: places to keep free.
    `sessions_per_pod`: what a pod offers that is not there yet, at least 1.
    """
    counted = [pod for pod in pods if not pod.is_leaving and (pod.num_sessions or pod.is_out)]
    moving = sum(pod.num_sessions for pod in pods if pod.is_leaving or pod.is_out or not pod.max_sessions)
    free = sum(max(0, pod.max_sessions - pod.num_sessions) for pod in counted if not pod.is_out)
    missing = max(0, num_waiting + moving + num_spare - free)
    return len(counted) + math.ceil(missing / sessions_per_pod)


def crowd(num_lately: int, num_before: int, num_minutes: float) -> float:
    """Sessions that came in the last minute beyond what the `num_minutes` before it and chance explain."""
    usual = max(num_before / num_minutes, LEAST_USUAL)
    return max(0.0, num_lately - usual - DEVIATIONS * math.sqrt(usual))


def num_expected(num_crowd: float, num_present: int, factor: float) -> int:
    """Sessions of a crowd that are still to come: `factor` for each that has come. Those that have left again
    bring nobody, so the sessions that are there (`num_present`, waiting or served) bound it."""
    return math.ceil(factor * min(num_crowd, num_present))


def num_replicas(pods: Collection[PodLoad]) -> int:
    """Those that the workload counts."""
    return sum(not pod.is_leaving for pod in pods)


def usual_sessions(pods: Collection[PodLoad]) -> int | None:
    """What one pod offers, on average over those that offer anything; None where none does."""
    offers = [pod.max_sessions for pod in pods if pod.max_sessions and not pod.is_leaving]
    return max(1, sum(offers) // len(offers)) if offers else None


def past_tolerance(desired: int, num_present: int, tolerance: float) -> int:
    """What to ask an HPA for, so that it acts: it leaves replicas alone that are within its tolerance of the
    wish (0.1 unless configured), so the 21st pod beside 20 would never come, however long sessions wait for
    it. The least number beyond the tolerance then; `desired` itself where nothing is missing."""
    if desired <= num_present:
        return desired
    return max(desired, math.floor(num_present * (1 + tolerance)) + 1) if tolerance else desired
