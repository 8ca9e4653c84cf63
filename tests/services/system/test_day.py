"""Two evening hours of the simulated day (benchmarks/day): real admission, scaler and deletion costs in
virtual time; and the simulation itself against what is documented of the parts that it stands for."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog

from benchmarks.day.controllers import Controller, Keda, PrometheusHpa, UtilizationHpa
from benchmarks.day.demand import Demand, Visit, visits
from benchmarks.day.hpa import CHART_DOWN, UP, Bounds, Direction, Hpa, Policy, average_value, utilization
from benchmarks.day.oracle import least_pod_seconds
from benchmarks.day.outcome import summarise
from benchmarks.day.pods import Hardware, Phase, Pod
from benchmarks.day.replica_set import deletion_rank
from benchmarks.day.simulation import Day, Setting, simulate
from benchmarks.day.virtual_time import now, run
from cascade.v1 import common_pb2

CHART = Bounds(1, 40, UP, CHART_DOWN)
EVENING = Demand(
    hours=2.0, start_hour=20.0, num_bursts=3, num_sessions=1200, median_length_s=480.0, spread=0.7
)
SCALER = {"warm_stage_sessions": 2, "interval_s": 5}
READY = common_pb2.SERVING_STATE_READY


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A log line per pod and minute of virtual time is much."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


def evening(controller: Controller | None = None, **changes: Any) -> Day:
    fields = {"demand": EVENING, "seed": 3, "scaler": SCALER, "quiet_s": 1500.0}
    return simulate(Setting("evening", controller or Keda(CHART), **fields | changes))


def check_served(day: Day) -> None:
    """Everybody played to the end, on a stage that was never taken away."""
    assert len(day.stories) > 150
    assert [story for story in day.stories if not story.made.is_set()] == []
    assert sum(story.num_cuts + story.num_refusals + story.has_failed for story in day.stories) == 0


@pytest.mark.parametrize(
    ("controller", "hardware"),
    [
        (Keda(CHART), Hardware()),
        (PrometheusHpa(CHART), Hardware()),
        (Keda(CHART), Hardware(max_sessions=1)),
    ],
    ids=["keda", "hpa", "keda, one session per pod"],
)
def test_nobody_is_cut_and_no_busy_pod_goes(controller: Controller, hardware: Hardware) -> None:
    day = evening(controller, hardware=hardware)
    check_served(day)
    assert [pod.name for pod in day.replica_set.pods if pod.was_busy] == []
    assert sum(story.num_moves for story in day.stories) == 0
    told = [sample for sample in day.samples if sample.desired is not None]
    assert len(told) > len(day.samples) - 10
    assert [sample for sample in told if sample.desired < sample.num_busy] == []
    assert max(sample.num_busy for sample in day.samples) >= 10, "the evening has a peak"
    floor = -(-SCALER["warm_stage_sessions"] // hardware.max_sessions)
    assert (day.samples[-1].replicas, len(day.replica_set.alive)) == (floor, floor), "warm pods alone"
    row = summarise(day)
    assert (row["cut"], row["lost"], row["busy_chosen"]) == (0, 0, 0)
    assert row["of_oracle"] > 1
    assert row["held_of_oracle"] > 1
    slowest = sum(times[1] for times in (hardware.node_s, hardware.image_s, hardware.load_s))
    assert max(story.wait_s or 0 for story in day.stories) < 1.5 * slowest, "nobody starves"


def test_the_same_seed_makes_the_same_evening() -> None:
    half_an_hour = replace(EVENING, hours=0.5)
    days = [evening(seed=seed, demand=half_an_hour) for seed in (5, 5, 6)]
    waits = [[story.wait_s for story in day.stories] for day in days]
    assert waits[0] == waits[1] != waits[2]
    assert days[0].samples == days[1].samples


def test_without_deletion_costs_a_plain_hpa_picks_busy_pods_whose_sessions_move() -> None:
    day = evening(UtilizationHpa(Bounds(1, 40)), has_deletion_cost=False)
    check_served(day)
    busy = [pod for pod in day.replica_set.pods if pod.was_busy]
    assert busy, "else the other tests prove nothing"
    assert sum(story.num_moves for story in day.stories) >= len(busy)


def test_to_zero_and_back() -> None:
    """With no warm place and minReplicaCount 0 the first session of an empty cluster brings its pod."""
    demand = Demand(hours=4.0, start_hour=3.0, num_bursts=0, num_sessions=200, median_length_s=120.0)
    day = evening(Keda(Bounds(0, 10, UP, CHART_DOWN)), demand=demand, first_replicas=0, scaler=NOTHING_WARM)
    assert [story for story in day.stories if not story.made.is_set()] == []
    assert day.samples[-1].replicas == 0
    assert 0 in [sample.replicas for sample in day.samples if 3600 < sample.at_s < 3 * 3600]


NOTHING_WARM = {"warm_stage_sessions": 0, "interval_s": 5}


def test_oracle_by_hand() -> None:
    """Two places a pod: the second pod is needed for the third session, and kept over a short gap."""
    a, b = Visit("a", 1000.0, 1000.0), Visit("b", 1000.0, 500.0)
    c, d = Visit("c", 1200.0, 100.0), Visit("d", 1350.0, 100.0)
    assert least_pod_seconds([a, b, c, d], 2, start_s=100, end_s=9000) == (1000 + 100) + (250 + 100)
    assert least_pod_seconds([a, b, c, d], 2, start_s=10, end_s=9000) == (1000 + 10) + 2 * (100 + 10)
    assert least_pod_seconds([a, b, c, d], 2, start_s=100, end_s=1250) == (250 + 100) + (50 + 100)


def test_hpa_arithmetic_as_documented() -> None:
    assert average_value(22, 1.0, 20, CHART) == 20, "within the tolerance"
    assert average_value(23, 1.0, 20, CHART) == 23
    exact = Bounds(1, 40, Direction(UP.policies, 0, tolerance=0.0))
    assert average_value(21, 1.0, 20, exact) == 21
    assert utilization([1.0, 1.0], 0, 0.7, CHART) == 3
    assert utilization([1.0, 1.0], 1, 0.7, CHART) == 3, "pods that start count as idle"


def test_hpa_goes_up_by_its_policies_and_down_after_its_window() -> None:
    time_s = 0.0
    hpa = Hpa(Bounds(1, 40, UP, Direction((Policy(pods=1, period_s=60),), window_s=300)), lambda: time_s)
    replicas, path = 1, []
    for wanted in [30] * 4 + [10] * 30:
        replicas = hpa.sync(replicas, wanted)
        path.append(replicas)
        time_s += 15
    assert path[:4] == [5, 10, 20, 30]
    assert path[4 : 4 + 19] == [30] * 19, "300 s from the last higher wish"
    assert path[23:33] == [29, 29, 29, 29, 28, 28, 28, 28, 27, 27], "one a minute"


def test_a_replica_set_deletes_in_the_documented_order() -> None:
    def pod(name: str, phase: Phase = Phase.RUNNING, ready_s: float | None = None, cost: int = 0) -> Pod:
        made = Pod(name, name, Hardware(), created_s=0.0, phase=phase, ready_s=ready_s, deletion_cost=cost)
        made.state = READY if ready_s is not None else made.state
        return made

    async def order() -> list[str]:
        pods = [
            pod("old", ready_s=10),
            pod("old and busy", ready_s=10, cost=1000),
            pod("young", ready_s=9000),
            pod("young and busy", ready_s=9000, cost=1000),
            pod("starting", Phase.RUNNING),
            pod("pulling", Phase.PENDING),
            pod("without a node", Phase.UNSCHEDULED),
        ]
        return [pod.name for pod in sorted(pods, key=lambda pod: deletion_rank(pod, 10_000.0))]

    first = ["without a node", "pulling", "starting", "young", "old", "young and busy", "old and busy"]
    assert run(order()) == first


def test_demand_has_bursts_and_long_tails() -> None:
    day = visits(Demand(), seed=1)
    lengths = sorted(visit.length_s for visit in day)
    assert 1000 < len(day) < 2000
    assert day == visits(Demand(), seed=1)
    assert day != visits(Demand(), seed=2)
    assert lengths[-1] > 10 * lengths[len(lengths) // 2]


def test_virtual_time_is_free() -> None:
    async def sleep() -> float:
        async with asyncio.timeout(1e9):
            await asyncio.sleep(1e6)
        return now()

    assert run(sleep()) == pytest.approx(1e6)


def test_virtual_time_tells_when_nothing_can_happen() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="no timer"):
        run(hang())
