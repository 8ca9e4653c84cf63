"""What is done to an installation, and when: chosen from a seed alone."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Action = Literal["KILL", "TERM", "STOP", "CUT", "EMPTY", "FAIL OVER", "CLOCK"]
WEIGHTS: dict[tuple[Action, str], int] = {
    ("KILL", "rank"): 10,
    ("KILL", "fork server"): 2,
    ("KILL", "stage"): 9,
    ("KILL", "decoder"): 9,
    ("KILL", "worker"): 9,
    ("KILL", "gateway"): 10,
    ("KILL", "Redis"): 4,
    ("TERM", "rank"): 1,
    ("TERM", "stage"): 6,
    ("TERM", "decoder"): 6,
    ("TERM", "worker"): 1,
    ("TERM", "gateway"): 8,
    ("TERM", "Redis"): 2,
    ("STOP", "rank"): 3,
    ("STOP", "stage"): 3,
    ("STOP", "decoder"): 3,
    ("STOP", "worker"): 3,
    ("STOP", "gateway"): 4,
    ("STOP", "Redis"): 3,
    ("CUT", "clients to gateway"): 5,
    ("CUT", "gateways to stage"): 3,
    ("CUT", "gateways to decoder"): 3,
    ("CUT", "gateways to Redis"): 3,
    ("EMPTY", "Redis"): 3,
    ("FAIL OVER", "Redis"): 3,
    ("CLOCK", "gateway"): 3,
    ("CLOCK", "stage"): 1,
}
"""How often each comes. KILL and TERM of Redis: it comes back with what it had. EMPTY: without. CLOCK: asked
to end, and started again with a clock that is wrong in another way."""
SECOND_SHARE = 0.25
"""How often a second fault comes with the first."""
TOGETHER_SHARE = 0.1
"""How often a gateway may go with what Redis has: then nobody has it."""
SHORTEST_STOP_S, LONGEST_STOP_S = 1.0, 30.0
CLOCKS_S = (0.0, -3600.0, -60.0, -2.0, 2.0, 60.0, 3600.0)


@dataclass(frozen=True)
class Fault:
    """One thing that is done to one target."""

    action: Action
    target: str
    choice: float
    """0 to 1: which one of its kind, among those that are there."""
    seconds: float = 0.0
    """Of a STOP."""
    clock_s: float = 0.0
    """Of a CLOCK: ahead of the machine's."""
    is_reckless: bool = False
    """What Redis has may go while a gateway is away, or about to go."""

    @property
    def kind(self) -> str:
        return f"{self.action} {self.target}"

    @property
    def empties_redis(self) -> bool:
        """All that it has, or what its replica had not got yet."""
        return self.action in ("EMPTY", "FAIL OVER")

    @property
    def takes_gateway(self) -> bool:
        """For a while."""
        return self.target == "gateway" and self.action != "CUT"


@dataclass(frozen=True)
class Step:
    """What happens at one moment."""

    wait_s: float
    """After the step before."""
    faults: tuple[Fault, ...]


def steps(seed: int, pace_s: float) -> Iterator[Step]:
    """Endless; `pace_s` apart on average."""
    chance = random.Random(seed)
    while True:
        wait_s = chance.uniform(0.5, 1.5) * pace_s
        first = choose(chance)
        yield Step(wait_s, (first, choose(chance)) if chance.random() < SECOND_SHARE else (first,))


def choose(chance: random.Random) -> Fault:
    ((action, target),) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
    ratio = LONGEST_STOP_S / SHORTEST_STOP_S
    seconds = round(SHORTEST_STOP_S * ratio ** chance.random(), 1)  # short ones more often
    clock_s = chance.choice(CLOCKS_S)
    return Fault(
        action,
        target,
        choice=chance.random(),
        seconds=seconds if action == "STOP" else 0.0,
        clock_s=clock_s if action == "CLOCK" else 0.0,
        is_reckless=chance.random() < TOGETHER_SHARE,
    )
