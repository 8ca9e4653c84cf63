"""The HorizontalPodAutoscaler's arithmetic for one metric, as documented.

Sources: kubernetes.io "Horizontal Pod Autoscaling" (algorithm details, configurable scaling behaviour) and
the API reference of `autoscaling/v2`. A sync every 15 s; no change while the ratio of metric to target is
within the tolerance (10 % for all of a cluster; per HPA as `behavior.scaleUp.tolerance` and
`scaleDown.tolerance`, alpha in 1.33, beta in 1.35); else ceil(metric / target); going down, the highest
recommendation of the last 300 s counts; policies bound how far one period may go.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

SYNC_S = 15.0


@dataclass(frozen=True)
class Policy:
    """How far the replicas may move within a period."""

    pods: int | None = None
    """So many; None: `percent` of what there was at the period's start."""
    percent: int = 100
    period_s: float = 15.0


@dataclass(frozen=True)
class Direction:
    """`behavior.scaleUp` or `behavior.scaleDown`, selectPolicy Max."""

    policies: tuple[Policy, ...]
    window_s: float
    """stabilizationWindowSeconds."""
    tolerance: float = 0.1


UP = Direction((Policy(pods=4), Policy(percent=100)), window_s=0.0)
DOWN = Direction((Policy(percent=100),), window_s=300.0)
"""Kubernetes' defaults, both."""
CHART_DOWN = Direction((Policy(pods=1, period_s=60.0),), window_s=60.0)
"""As the chart's `autoscaling.stage.scaleDown`, with a window of 60 s, which covers the age of a scraped
number: a pod that became busy since must not be deleted by it. Its `scaleUp` is Kubernetes' default."""


@dataclass(frozen=True)
class Bounds:
    """Spec of one HPA."""

    least: int
    most: int
    up: Direction = UP
    down: Direction = DOWN


def average_value(metric: float, target: float, replicas: int, bounds: Bounds) -> int:
    """Replicas that an External metric with an AverageValue target asks for."""
    ratio = metric / (target * replicas)
    return replicas if within(ratio, bounds) else math.ceil(metric / target)


def utilization(loads: list[float], num_unready: int, target: float, bounds: Bounds) -> int:
    """Replicas that a Resource metric with a Utilization target asks for. `loads`: of ready pods, 1: full.

    Pods that are not ready yet count as idle on the way up.
    """
    num_pods = len(loads) + num_unready
    if not loads:
        return num_pods
    ratio = sum(loads) / len(loads) / target
    if ratio > 1 and num_unready:
        damped = sum(loads) / num_pods / target
        return num_pods if damped < 1 or within(damped, bounds) else math.ceil(damped * num_pods)
    if within(ratio, bounds):
        return num_pods
    return math.ceil(ratio * len(loads)) + (num_unready if ratio > 1 else 0)


def within(ratio: float, bounds: Bounds) -> bool:
    return 1 - bounds.down.tolerance <= ratio <= 1 + bounds.up.tolerance


@dataclass
class Hpa:
    """What the controller remembers of one HPA between two syncs."""

    bounds: Bounds
    clock: Callable[[], float]
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, current: int, recommended: int) -> int:
        """New replicas, from those of the spec and what the metric asks for."""
        stable = self._stabilize(current, recommended)
        replicas = min(max(self._limit(current, stable), self.bounds.least), self.bounds.most)
        if replicas != current:
            self._changes.append((self.clock(), replicas - current))
        return replicas

    def _stabilize(self, current: int, recommended: int) -> int:
        now = self.clock()
        up_s, down_s = self.bounds.up.window_s, self.bounds.down.window_s
        self._recommended.append((now, recommended))
        oldest = now - max(up_s, down_s)
        self._recommended = [entry for entry in self._recommended if entry[0] > oldest]
        least = min([recommended, *(asked for at, asked in self._recommended if at > now - up_s)])
        most = max([recommended, *(asked for at, asked in self._recommended if at > now - down_s)])
        return min(max(current, least), most)

    def _limit(self, current: int, wanted: int) -> int:
        if wanted > current:
            ends = [self._up_end(policy, current) for policy in self.bounds.up.policies]
            return min(wanted, max(current, *ends))
        if wanted < current:
            ends = [self._down_end(policy, current) for policy in self.bounds.down.policies]
            return max(wanted, min(current, *ends))
        return current

    def _up_end(self, policy: Policy, current: int) -> int:
        start = self._at_period_start(policy, current)
        if policy.pods is not None:
            return start + policy.pods
        return math.ceil(start * (1 + policy.percent / 100))

    def _down_end(self, policy: Policy, current: int) -> int:
        start = self._at_period_start(policy, current)
        if policy.pods is not None:
            return start - policy.pods
        return int(start * (1 - policy.percent / 100))

    def _at_period_start(self, policy: Policy, current: int) -> int:
        since = self.clock() - policy.period_s
        return current - sum(change for at, change in self._changes if at > since)
