"""What a session can be rebuilt from: frozen data, changed only by `changes.apply`."""

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict

from services.gateway.journal.errors import InvalidEntry, JournalFull

SwitchMode = Literal["immediate", "boundary", "recache"]

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Session ids and tenants: they become parts of keys and page tokens."""
MAX_REQUEST_ID_CHARACTERS = 128
MAX_KEPT = 1000
"""Latents, segments or prompts of one session; a Lua call takes a few thousand arguments."""

IN_JSON = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", extra="forbid")


@dataclass(frozen=True)
class Limits:
    """How much of a session is kept."""

    num_sink_blocks: int = 0
    """First blocks of the session; their latents are kept for its whole life."""
    num_recent_blocks: int = 8
    """Newest blocks whose latents are kept. To reopen at any block a model needs sink + window of them
    (`cascade_core.schedule.context_blocks`), besides its sink."""
    num_warmup_blocks: int = 0
    """Latents kept before the decoder's next block, to warm up another decoder. Latents that are not
    decoded yet are always kept."""
    num_segments: int = 32
    """Newest encoded segments kept for clients that reconnect."""
    num_prompts: int = 256
    """Entries of the prompt timeline; the oldest that no kept latents were made with give way."""
    max_bytes: int = 32 * 2**20
    """Of all data together. Beyond it the oldest segments give way, then a write is refused. A journal
    reserves it for each session it holds."""

    def __post_init__(self) -> None:
        for name, least in (
            ("num_recent_blocks", 1),
            ("num_segments", 1),
            ("num_prompts", 1),
            ("max_bytes", 1),
        ):
            if getattr(self, name) < least:
                raise InvalidEntry(f"{name}: {getattr(self, name)} is not at least {least}")
        for name in (
            "num_sink_blocks",
            "num_recent_blocks",
            "num_warmup_blocks",
            "num_segments",
            "num_prompts",
        ):
            if not 0 <= getattr(self, name) <= MAX_KEPT:
                raise InvalidEntry(f"{name}: {getattr(self, name)} is not in 0..{MAX_KEPT}")


@dataclass(frozen=True)
class NewSession:
    """A session to create."""

    __pydantic_config__ = IN_JSON

    session: str
    """Its id, unique for ever: letters, digits, `.`, `_`, `-`, at most 64."""
    tenant: str
    """Whose it is; written like a session id."""
    specification: bytes
    """What was asked, as the gateway serialized it; the journal never looks inside."""
    prompts: Mapping[int, str]
    """Prompt timeline asked for at the start; must have one for block 0."""
    request_id: str = ""
    """The same id of the same tenant finds the session created before; empty: no such memory."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name, value in (("session", self.session), ("tenant", self.tenant)):
            if not NAME.fullmatch(value):
                raise InvalidEntry(f"{name}: {value[:80]!r} does not match {NAME.pattern}")
        check_request_id(self.request_id)
        if 0 not in self.prompts or min(self.prompts) < 0:
            raise InvalidEntry(f"prompts: blocks {sorted(self.prompts)[:8]} must start with 0")
        if len(self.prompts) > self.limits.num_prompts:
            raise InvalidEntry(f"prompts: {len(self.prompts)} are more than {self.limits.num_prompts}")

    def same_request(self, other: "NewSession") -> bool:
        """Whether both ask for the same, whatever ids were chosen."""
        mine, theirs = (
            (new.tenant, new.specification, dict(new.prompts), new.limits) for new in (self, other)
        )
        return mine == theirs


@dataclass(frozen=True)
class Prompt:
    """One entry of the prompt timeline: accepted, and once its receipt is there, applied."""

    request_id: str
    """`create/BLOCK` for those the session was created with."""
    prompt: str
    mode: SwitchMode = "immediate"
    at_block: int | None = None
    """Asked to begin with this block; None: as soon as possible."""
    first_block_touched: int | None = None
    """From the receipt; None: not applied yet."""
    first_block_full: int | None = None


@dataclass(frozen=True)
class Segment:
    """One encoded block."""

    sequence: int
    """Gap-free from 0."""
    block: int
    data: bytes
    presentation_ticks: int
    """Start on the session's clock, in units of 1/90000 s."""
    duration_ticks: int


@dataclass(frozen=True)
class Cursors:
    """Where the session is."""

    next_stage_block: int = 0
    """The first block without journalled latents: a new stage starts here."""
    next_decoder_block: int = 0
    """The first block without a journalled segment: a new decoder starts here."""
    next_sequence: int = 0
    """Sequence number of the next segment."""
    acked_sequence: int = -1
    """The newest segment the controller has acknowledged; -1: none."""


@dataclass(frozen=True)
class Record:
    """Everything that is known of one session."""

    origin: NewSession
    created_ms: int
    """Wall clock, since 1970."""
    prompts: tuple[Prompt, ...]
    """Scheduled and waiting ones as accepted, applied ones moved behind them in order of their receipts."""
    cursors: Cursors = Cursors()
    latents: Mapping[int, bytes] = field(default_factory=dict)
    """Serialized clean latents by block, ascending."""
    segments: tuple[Segment, ...] = ()
    """The newest ones, without gaps, up to `cursors.next_sequence`."""
    end_reason: str = ""
    """Empty: it has not ended."""
    revision: int = 0
    """Number of changes so far."""

    @property
    def session(self) -> str:
        return self.origin.session

    @property
    def num_bytes(self) -> int:
        blobs = sum(map(len, self.latents.values())) + sum(len(segment.data) for segment in self.segments)
        prompts = sum(len(entry.prompt.encode()) for entry in self.prompts)
        return blobs + prompts + len(self.origin.specification)

    @property
    def oldest_sequence(self) -> int:
        """Of the segments kept; the next one's where none is."""
        return self.cursors.next_sequence - len(self.segments)

    def timeline(self) -> dict[int, str]:
        """Prompts by the block they begin with, for reopening: applied, or set for a block to come."""
        scheduled = {
            entry.at_block: entry.prompt
            for entry in self.prompts
            if entry.first_block_touched is None and (entry.at_block or 0) >= self.cursors.next_stage_block
            if entry.at_block is not None
        }
        return scheduled | {
            entry.first_block_touched: entry.prompt
            for entry in self.prompts
            if entry.first_block_touched is not None
        }

    def waiting(self) -> tuple[Prompt, ...]:
        """Accepted switches without a receipt that `timeline` does not hold: to be sent again, in order."""
        ahead = self.cursors.next_stage_block
        return tuple(
            entry
            for entry in self.prompts
            if entry.first_block_touched is None and (entry.at_block is None or entry.at_block < ahead)
        )

    def read(self, after_sequence: int, limit: int) -> tuple[Segment, ...]:
        """Kept segments after this sequence number."""
        return tuple(segment for segment in self.segments if segment.sequence > after_sequence)[:limit]


def new_record(new: NewSession, created_ms: int) -> Record:
    """The record of a session that has just been created. Raises JournalFull."""
    entries = []
    for block, prompt in sorted(new.prompts.items()):
        applied = 0 if block == 0 else None
        entries.append(Prompt(f"create/{block}", prompt, "immediate", block, applied, applied))
    record = Record(new, created_ms, tuple(entries))
    if record.num_bytes > new.limits.max_bytes:
        raise JournalFull(
            f"session {new.session}: {record.num_bytes} bytes pass max_bytes {new.limits.max_bytes}"
        )
    return record


def check_request_id(request_id: str) -> None:
    """Raise InvalidEntry where it is too long."""
    if len(request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise InvalidEntry(f"request_id: {len(request_id)} characters, more than {MAX_REQUEST_ID_CHARACTERS}")


def ruling_prompts(applied: list[Prompt], blocks: list[int]) -> set[str]:
    """Request ids of the applied prompts that these blocks are made under."""

    def begins(entry: Prompt) -> Any:
        return entry.first_block_touched

    entries = sorted(applied, key=begins)  # stable: of two with one block, the later receipt rules
    places = (bisect_right(entries, block, key=begins) - 1 for block in blocks)
    return {entries[place].request_id for place in places if place >= 0}
