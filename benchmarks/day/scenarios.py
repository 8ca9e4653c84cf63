"""The days that are compared: the same sessions, scaled in different ways."""

from dataclasses import replace
from typing import Any

from benchmarks.day.controllers import Fixed, Keda, PrometheusHpa, UtilizationHpa
from benchmarks.day.demand import Demand, visits
from benchmarks.day.hpa import CHART_DOWN, UP, Bounds
from benchmarks.day.oracle import loads
from benchmarks.day.pods import Hardware
from benchmarks.day.simulation import Setting

SHARED = Setting("shared", Keda(Bounds(1, 60, UP, CHART_DOWN)))
"""Four sessions on a pod: a model several times faster than playback."""
ALONE = replace(
    SHARED,
    name="alone",
    controller=Keda(Bounds(1, 120, UP, CHART_DOWN)),
    demand=Demand(num_sessions=700, num_bursts=8, burst_sessions=(8, 30)),
    hardware=Hardware(max_sessions=1, load_s=(90.0, 120.0)),
)
"""One session on a pod: a 14B model, which all of a pod's GPUs just keep up with."""
KINDS = {
    "shared": "Four sessions on a pod",
    "alone": "One session on a pod (14B)",
}
WARM = {"shared": (0, 1, 4, 8, 16, 32), "alone": (0, 1, 4, 8, 16)}
"""`warm_stage_sessions` of the curves; 1 is the default."""


AS_BEFORE = {"crowd_factor": 0.0, "scale_down_after_s": 300.0}
"""The defaults until decision 150."""
TRIED: dict[str, dict[str, Any]] = {
    "crowd_factor 0, scale_down_after_s 300 (before)": AS_BEFORE,
    "crowd_factor 0, scale_down_after_s 60": {"crowd_factor": 0.0},
    "crowd_factor 1, scale_down_after_s 60 (default)": {},
    "crowd_factor 2, scale_down_after_s 60": {"crowd_factor": 2.0},
}
"""Fields of ScalerSettings, against the wait of a crowd."""
DENSE = replace(SHARED.hardware, max_sessions=6, smooth_sessions=4)
"""Six sessions on a pod that keeps up with four."""


def tried(kind: str, seed: int) -> list[Setting]:
    """The same day with each of them, and one warm place."""
    base = replace({"shared": SHARED, "alone": ALONE}[kind], seed=seed)
    days = [replace(base, name=name, scaler=scaler(1) | changes) for name, changes in TRIED.items()]
    if kind == "shared":
        name = "before, 6 sessions on a pod that keeps up with 4"
        days.append(replace(base, name=name, scaler=scaler(1) | AS_BEFORE, hardware=DENSE))
    return days


def settings(kind: str, seed: int) -> list[Setting]:
    """All days of one kind."""
    base = replace({"shared": SHARED, "alone": ALONE}[kind], seed=seed)
    bounds = base.controller.bounds if isinstance(base.controller, Keda) else Bounds(1, 60)
    plain = Bounds(bounds.least, bounds.most)
    warm4 = scaler(4)
    peak = fleet(base)
    return [
        *(replace(base, name=f"KEDA, {places} warm", scaler=scaler(places)) for places in WARM[kind]),
        replace(base, name="HPA on the gauge, 4 warm", controller=PrometheusHpa(bounds), scaler=warm4),
        replace(base, name="KEDA, 4 warm, no deletion cost", scaler=warm4, has_deletion_cost=False),
        replace(
            base, name="HPA on 70 % utilisation", controller=UtilizationHpa(plain), has_deletion_cost=False
        ),
        replace(base, name=f"nobody: {peak} pods, the peak's", controller=Fixed(peak), first_replicas=peak),
    ]


def scaler(num_warm: int) -> dict[str, Any]:
    """ScalerSettings. The interval is 1 s by default; KEDA gets a number of its own moment in any case, and a
    day takes less long to simulate."""
    return {"warm_stage_sessions": num_warm, "interval_s": 5.0}


def fleet(setting: Setting) -> int:
    """Pods that the busiest moment needs."""
    most = max(load for _, load in loads(visits(setting.demand, setting.seed)))
    return -(-most // setting.hardware.max_sessions)
