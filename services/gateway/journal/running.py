"""Which sessions run, told among gateways: those of a lost one need their places again."""

import json
from dataclasses import dataclass, field

KEPT_S = 120.0
"""For a session that its gateway no longer speaks of, and no other has taken over."""


@dataclass(frozen=True)
class RunningSession:
    """One that has its places, or had them until it lost one, or its gateway."""

    session: str
    model: str
    revision: str
    """Of the model; empty: any."""
    kind: str
    """Equal where the same machines do."""
    needs: frozenset[str]
    """Of `stage` and `decoder`, those that it cannot do without."""
    lacks: frozenset[str] = frozenset()
    """Those of them that it waits for."""
    silent_s: float = field(default=0.0, compare=False)
    """Since its gateway spoke of it."""


def encode(running: RunningSession, until_ms: int) -> bytes:
    what = [running.model, running.revision, running.kind]
    return json.dumps([until_ms, *what, sorted(running.needs), sorted(running.lacks)]).encode()


def decode(session: str, value: bytes, now_ms: int) -> RunningSession | None:
    """None: it is written in a later release's way."""
    try:
        until_ms, model, revision, kind, needs, lacks, *_ = json.loads(value)
        silent_s = KEPT_S - (until_ms - now_ms) / 1000
        return RunningSession(session, model, revision, kind, frozenset(needs), frozenset(lacks), silent_s)
    except (ValueError, TypeError):
        return None
