"""The journal: what a session can be rebuilt from, in memory or in Redis."""

from services.gateway.journal.base import Behind, Creation, Journal, Lease, Page, Summary
from services.gateway.journal.changes import (
    Change,
    Ended,
    LatentsMade,
    PromptAccepted,
    PromptApplied,
    SegmentMade,
    SegmentsAcked,
)
from services.gateway.journal.memory import MemoryJournal
from services.gateway.journal.record import Cursors, Limits, NewSession, Prompt, Record, Segment
from services.gateway.journal.redis_store import RedisStore, connect
from services.gateway.journal.replicated import ReplicatedJournal

__all__ = [
    "Behind",
    "Change",
    "Creation",
    "Cursors",
    "Ended",
    "Journal",
    "LatentsMade",
    "Lease",
    "Limits",
    "MemoryJournal",
    "NewSession",
    "Page",
    "Prompt",
    "PromptAccepted",
    "PromptApplied",
    "Record",
    "RedisStore",
    "ReplicatedJournal",
    "Segment",
    "SegmentMade",
    "SegmentsAcked",
    "Summary",
    "connect",
]
