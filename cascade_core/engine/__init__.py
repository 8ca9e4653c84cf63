"""The parent side: sessions in, clean latent blocks out. Programs that run an engine import from here."""

from cascade_core.engine.engine import Engine
from cascade_core.engine.session import (
    BlockTiming,
    Ended,
    EndReason,
    Event,
    LatentBlock,
    PromptApplied,
    Session,
    TickTiming,
)
from cascade_core.engine.status import EngineObserver, EngineStatus
from cascade_core.ranks.messages import StartTimes
from cascade_core.request import SessionRequest, SwitchRequest

__all__ = [
    "BlockTiming",
    "EndReason",
    "Ended",
    "Engine",
    "EngineObserver",
    "EngineStatus",
    "Event",
    "LatentBlock",
    "PromptApplied",
    "Session",
    "SessionRequest",
    "StartTimes",
    "SwitchRequest",
    "TickTiming",
]
