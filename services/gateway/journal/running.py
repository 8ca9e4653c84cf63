"""Which sessions run, told among gateways: those of a lost one need their places again."""

import json
from dataclasses import dataclass

KEPT_S = 120.0
"""For a session that its gateway speaks of no more, and no other has taken over."""


@dataclass(frozen=True)
class RunningSession:
    """One that has its places, or had them until it lost one, or its gateway."""

    session: str
    model: str
    needs: frozenset[str]
    """Of `stage` and `decoder`, those that it cannot do without."""
    lacks: frozenset[str] = frozenset()
    """Those of them that it waits for."""


def encode(running: RunningSession, until_ms: int) -> bytes:
    return json.dumps([until_ms, running.model, sorted(running.needs), sorted(running.lacks)]).encode()


def decode(session: str, value: bytes, now_ms: int) -> RunningSession | None:
    """None: it was kept for long enough, or is written in a later release's way."""
    try:
        until_ms, model, needs, lacks = json.loads(value)
        running = RunningSession(session, model, frozenset(needs), frozenset(lacks))
        return running if until_ms > now_ms else None
    except (ValueError, TypeError):
        return None
