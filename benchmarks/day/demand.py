"""Who comes when, and stays how long: a daily curve, bursts on it, heavy-tailed lengths. Pure, by seed."""

import math
import random
from dataclasses import dataclass

HOUR_S = 3600.0
NIGHT = 0.08
"""Of the evening's rate that is left at 5 in the morning."""
MIN_LENGTH_S, MAX_LENGTH_S = 30.0, 4 * HOUR_S


@dataclass(frozen=True)
class Demand:
    """What a day asks for."""

    num_sessions: int = 1200
    """About that many arrive by the daily curve, those of bursts not counted."""
    num_bursts: int = 10
    """Moments at which a crowd comes at once: somebody posted a link."""
    burst_sessions: tuple[int, int] = (15, 60)
    """Least and most sessions of one."""
    burst_s: float = 150.0
    """Mean time after its start at which a session of a burst arrives."""
    median_length_s: float = 600.0
    """Of a session, played without a pause."""
    spread: float = 1.1
    """Standard deviation of the logarithm of the length."""
    hours: float = 24.0
    """Arrivals end after that."""
    start_hour: float = 5.0
    """Of the day, at time 0: the quietest."""


@dataclass(frozen=True)
class Visit:
    """One session that somebody wants."""

    name: str
    arrival_s: float
    length_s: float
    """Seconds of video that are watched."""
    is_crowd: bool = False
    """It came with a burst."""


def rate(hour: float) -> float:
    """Of arrivals, 0 to 1: least at 5, most at 21, a shoulder at 12."""
    evening = math.exp(-(min(abs(hour - 21), 24 - abs(hour - 21)) ** 2) / 14)
    noon = 0.55 * math.exp(-((hour - 12.5) ** 2) / 8)
    return min(1.0, NIGHT + (1 - NIGHT) * max(evening, noon, 0.35 * (9 <= hour <= 23)))


def visits(demand: Demand, seed: int) -> list[Visit]:
    """All of them, by arrival."""
    chance = random.Random(seed)
    span_s = demand.hours * HOUR_S
    num_daily = round(demand.num_sessions * demand.hours / 24)
    arrivals = [(daily(demand, chance), False) for _ in range(num_daily)]
    for _ in range(demand.num_bursts):
        start = daily(demand, chance)
        crowd = chance.randint(*demand.burst_sessions)
        arrivals += [(start + chance.expovariate(1 / demand.burst_s), True) for _ in range(crowd)]
    arrivals = sorted(arrival for arrival in arrivals if arrival[0] < span_s)
    return [Visit(f"v{n}", at_s, length(demand, chance), crowd) for n, (at_s, crowd) in enumerate(arrivals)]


def daily(demand: Demand, chance: random.Random) -> float:
    """An arrival by the daily curve."""
    while True:
        at_s = chance.uniform(0, demand.hours * HOUR_S)
        if chance.random() < rate((demand.start_hour + at_s / HOUR_S) % 24):
            return at_s


def length(demand: Demand, chance: random.Random) -> float:
    """Seconds, log-normal within bounds."""
    return min(
        max(chance.lognormvariate(math.log(demand.median_length_s), demand.spread), MIN_LENGTH_S),
        MAX_LENGTH_S,
    )
