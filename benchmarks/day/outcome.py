"""What a day cost and how long people waited, in figures."""

import math
from typing import Any

from benchmarks.day.demand import HOUR_S
from benchmarks.day.oracle import least_pod_seconds
from benchmarks.day.pods import Hardware
from benchmarks.day.simulation import Day

Row = dict[str, Any]


def summarise(day: Day) -> Row:
    """Waiting in seconds; GPU-hours of the hours in which sessions arrive, whatever comes after."""
    setting, stories = day.setting, day.stories
    waits = sorted(math.inf if story.wait_s is None else story.wait_s for story in stories)
    rented = rented_seconds(day) * setting.hardware.num_gpus / HOUR_S
    held = held_seconds(day) * setting.hardware.num_gpus / HOUR_S
    least_rented, least_held = least_gpu_hours(day)
    return {
        "scaled by": setting.name,
        "wait_mean_s": round(sum(waits) / len(waits), 1),
        "wait_p50_s": round(percentile(waits, 50)),
        "wait_p95_s": round(percentile(waits, 95)),
        "wait_p99_s": round(percentile(waits, 99)),
        "wait_max_s": round(waits[-1]),
        "waited": f"{sum(wait > 1 for wait in waits) / len(waits):.0%}",
        "gpu_hours": round(rented),
        "of_oracle": round(rented / least_rented, 2),
        "held_gpu_hours": round(held),
        "held_of_oracle": round(held / least_held, 2),
        "pods_started": len(day.replica_set.pods),
        "busy_chosen": sum(pod.was_busy for pod in day.replica_set.pods),
        "moved_live": sum(story.num_moves for story in stories),
        "cut": sum(story.num_cuts for story in stories),
        "lost": sum(story.has_failed or story.wait_s is None for story in stories),
    }


def crowd_row(day: Day) -> Row:
    """Who waits, and what it costs, with those who come in a burst told apart from all others."""
    row = summarise(day)
    crowd, others = (
        sorted(story.wait_s or 0.0 for story in day.stories if story.visit.is_crowd == is_crowd)
        for is_crowd in (True, False)
    )
    playing = sum(sample.num_playing for sample in day.samples)
    return {
        **{
            name: row[name]
            for name in ("wait_mean_s", "wait_p50_s", "wait_p95_s", "wait_p99_s", "wait_max_s")
        },
        "crowd_mean_s": sum(crowd) / max(1, len(crowd)),
        **{f"crowd_p{percent}_s": percentile(crowd, percent) for percent in (50, 95) if crowd},
        "others_p95_s": percentile(others, 95),
        "slow_percent": 100 * sum(sample.num_slow for sample in day.samples) / max(1, playing),
        **{name: row[name] for name in ("gpu_hours", "busy_chosen", "moved_live", "cut", "lost")},
        "refused": sum(story.num_refusals for story in day.stories),
    }


def mean_row(name: str, rows: list[Row]) -> Row:
    """Means over days; of what should never be, sums."""
    sums = ("busy_chosen", "moved_live", "cut", "lost", "refused")
    return {"tried": name} | {
        column: sum(row[column] for row in rows)
        if column in sums
        else round(sum(row[column] for row in rows) / len(rows), 1)
        for column in rows[0]
    }


def oracle_row(day: Day) -> Row:
    """Of whoever knows the day, on the same demand."""
    least_rented, least_held = least_gpu_hours(day)
    row: Row = dict.fromkeys(summarise(day), 0)
    row |= {"scaled by": "oracle", "waited": "0%", "wait_mean_s": 0.0, "pods_started": ""}
    row |= {"of_oracle": 1.0, "held_of_oracle": 1.0}
    return row | {"gpu_hours": round(least_rented), "held_gpu_hours": round(least_held)}


def percentile(ordered: list[float], percent: float) -> float:
    """Nearest rank."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def rented_seconds(day: Day) -> float:
    """Of nodes, from their order until they are given back."""
    end = end_s(day)
    nodes = [node for node in day.replica_set.nodes if node.ordered_s < end]
    return sum(min(node.gone_s or end, end) - node.ordered_s for node in nodes)


def held_seconds(day: Day) -> float:
    """Of pods, from when they get their GPUs until they exit."""
    end = end_s(day)
    spans = [(pod.bound_s, pod.exited_s or end) for pod in day.replica_set.pods if pod.bound_s is not None]
    return sum(min(exited, end) - bound for bound, exited in spans if bound < end)


def least_gpu_hours(day: Day) -> tuple[float, float]:
    """The oracle's, rented and held. It is always lucky: the shortest times to come up."""
    hardware = day.setting.hardware
    visits = [story.visit for story in day.stories]
    starts = (shortest_start_s(hardware), hardware.load_s[0])
    rented, held = (least_pod_seconds(visits, hardware.max_sessions, start, end_s(day)) for start in starts)
    return rented * hardware.num_gpus / HOUR_S, held * hardware.num_gpus / HOUR_S


def shortest_start_s(hardware: Hardware) -> float:
    """From the order of a node to a ready pod."""
    return hardware.node_s[0] + hardware.image_s[0] + hardware.load_s[0]


def end_s(day: Day) -> float:
    return day.setting.demand.hours * HOUR_S


def breakdown(day: Day) -> Row:
    """Where the held pods' hours went, as shares."""
    places = day.setting.hardware.max_sessions
    samples = [sample for sample in day.samples if sample.at_s < end_s(day)]
    needed = sum(math.ceil(sample.num_playing / places) for sample in samples)
    busy = sum(sample.num_busy for sample in samples)
    ready = sum(sample.num_ready for sample in samples)
    alive = sum(sample.num_alive for sample in samples)
    return {
        "needed if packed perfectly": round(needed / alive, 3),
        "spread over more pods": round(max(0, busy - needed) / alive, 3),
        "ready and idle": round((ready - busy) / alive, 3),
        "starting or ending": round((alive - ready) / alive, 3),
    }
