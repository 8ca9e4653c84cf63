"""What all clients of a run have in common: how to reach the gateways, what they do, what became of them."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.chaos.checks import Check
from benchmarks.chaos.ledger import Ledger
from cascade_client import Client
from cascade_client.errors import CascadeClientError

ATTACH_S = 180.0
"""For a gateway to take a client in, whatever is down meanwhile."""


@dataclass(frozen=True)
class Crowd:
    """Who plays what."""

    num_sessions: int
    """At a time: one that is over is followed by another."""
    num_blocks: tuple[int, int]
    """Of each session, at random."""
    prompts: tuple[str, ...]
    switches: bool
    """Whether controllers change the prompt."""
    make_check: Callable[[int, str], Check]
    """Given seed and prompt."""
    seed: int
    fixed_seed: int | None = None
    """Of all sessions; None: each has its own."""


@dataclass
class Loss:
    """A session that ended before its time, or that its client could not go on with."""

    session: str
    cause: str
    at_s: float
    last_sequence: int
    epoch: int
    excuse: str = ""
    """Why it counts as allowed."""


@dataclass
class Tally:
    """Of all of them."""

    crowd: Crowd
    clients: Callable[[int], Client]
    """Given n, a client that tries the gateways in turn from the n-th on."""
    ledgers: list[Ledger] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    viewers_lost: list[Loss] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """Wishes that were not granted, by reason."""
    num_undone: int = 0
    """Resumptions that were granted, and forgotten with the gateway that had granted them."""
    is_over: bool = False
    """Everybody is to leave."""

    def lose(self, ledger: Ledger, cause: str) -> None:
        lost = self.viewers_lost if ledger.is_viewer else self.losses
        lost.append(Loss(ledger.name, cause, time.monotonic(), ledger.last, ledger.epoch))


def tell(error: CascadeClientError, *, is_short: bool = False) -> str:
    name = error.reason or error.code.name
    return name if is_short else f"{name}: {error}"
