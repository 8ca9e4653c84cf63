"""The journal: what a session can be rebuilt from, in memory or in Redis."""

from services.gateway.journal.base import Behind, Creation, Journal, Lease, Page, Summary
from services.gateway.journal.beginning import Beginning
from services.gateway.journal.changes import (
    Acked,
    Change,
    Ended,
    LatentsMade,
    LimitsSet,
    Noted,
    PromptAccepted,
    PromptApplied,
    PromptRefused,
    Requested,
    SegmentMade,
)
from services.gateway.journal.memory import MemoryJournal
from services.gateway.journal.record import KeptSegment, Limits, NewSession, Prompt, Record, SwitchMode
from services.gateway.journal.redis_address import connect, connect_by
from services.gateway.journal.redis_store import RedisStore
from services.gateway.journal.replicated import ReplicatedJournal
from services.gateway.journal.running import RunningSession

__all__ = [
    "Acked",
    "Beginning",
    "Behind",
    "Change",
    "Creation",
    "Ended",
    "Journal",
    "KeptSegment",
    "LatentsMade",
    "Lease",
    "Limits",
    "LimitsSet",
    "MemoryJournal",
    "NewSession",
    "Noted",
    "Page",
    "Prompt",
    "PromptAccepted",
    "PromptApplied",
    "PromptRefused",
    "Record",
    "RedisStore",
    "ReplicatedJournal",
    "Requested",
    "RunningSession",
    "SegmentMade",
    "Summary",
    "SwitchMode",
    "connect",
    "connect_by",
]
