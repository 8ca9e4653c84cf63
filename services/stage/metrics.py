"""What a stage counts, for Prometheus."""

from collections.abc import Callable
from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cascade_core.engine import StartTimes

TICK_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2, 5, 10, 30)
SWITCH_BUCKETS_S = (0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class StageMetrics:
    """Once per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.blocks = Counter("cascade_stage_blocks", "Blocks finished.", registry=registry)
        self.ticks_s = Histogram(
            "cascade_stage_tick_seconds",
            "Compute time of a tick on its slowest rank.",
            buckets=TICK_BUCKETS_S,
            registry=registry,
        )
        self.sessions = Gauge("cascade_stage_sessions", "Sessions that are open.", registry=registry)
        self.slots = Gauge(
            "cascade_stage_slots",
            "Sessions of the default size that fit, open ones included.",
            registry=registry,
        )
        self.restarts = Counter(
            "cascade_stage_rank_restarts", "Times the ranks started again.", registry=registry
        )
        self.start_s = Gauge(
            "cascade_stage_start_seconds",
            "The latest start of the ranks by part (load, join, warm_up), on the one that took longest.",
            ("part",),
            registry=registry,
        )
        self.switches = Counter(
            "cascade_stage_prompt_switches",
            "Prompt switches by outcome: accepted, or the reason they were refused for.",
            ("outcome",),
            registry=registry,
        )
        self.switch_s = Histogram(
            "cascade_stage_switch_apply_seconds",
            "From the arrival of a switch that waits for no block to its effect.",
            buckets=SWITCH_BUCKETS_S,
            registry=registry,
        )

    def observe_start(self, times: StartTimes) -> None:
        for part in fields(times):
            self.start_s.labels(part.name.removesuffix("_s")).set(getattr(times, part.name))

    def observe_tick(self, tick_s: float, has_block: bool) -> None:
        self.ticks_s.observe(tick_s)
        self.blocks.inc(has_block)

    def watch(self, num_sessions: Callable[[], int], num_slots: Callable[[], int]) -> None:
        """Ask for these at each scrape."""
        self.sessions.set_function(num_sessions)
        self.slots.set_function(num_slots)
