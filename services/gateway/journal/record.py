"""What a session can be rebuilt from: frozen data, changed only by `rules.apply`."""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import ConfigDict

from cascade_core.prompts import Transition, WeightedPrompt
from services.gateway.journal.beginning import Beginning
from services.gateway.journal.errors import InvalidEntry, JournalFull, SegmentsGone

SwitchMode = Literal["immediate", "boundary", "recache", "cut"]

Loras = tuple[tuple[str, float], ...]
"""Names of LoRAs, with their scales."""

SESSION = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Session ids become parts of keys and page tokens."""
MAX_NAME_CHARACTERS = 256
"""Of a tenant, a request id, a note's name."""
MAX_KEPT = 4096
"""The highest limit on anything that is counted."""
MAX_BLOCK = 2**31
MAX_CUTS = 1024
"""As the contract says: more than a session with an end of its positions can have."""
CREATED = "create/"
"""Request ids of prompts that the session was created with begin so, and no others do."""

BRIEF_NOTES = ("model", "state", "paused", "started_ms", "epoch", "unknown_words", "prompt")
"""Notes that lists show; `services/gateway/session/views.py` knows what is in them."""

IN_JSON = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", extra="forbid")


@dataclass(frozen=True)
class Limits:
    """How much of a session is kept."""

    num_sink_blocks: int = 0
    """First blocks of the session; their latents are kept for its whole life."""
    num_recent_blocks: int = 8
    """Newest blocks whose latents are kept, at least 1: what a stage needs to go on, besides the sink."""
    num_warmup_blocks: int = 0
    """Latents kept before the decoder's next block, to warm up another decoder. Latents that are not
    decoded yet are always kept."""
    num_segments: int = 64
    """Newest segments kept, at least 1. Unacknowledged ones are kept beyond it."""
    num_prompts: int = 1100
    """Prompts and switches; the oldest that no kept latents were made with give way."""
    num_requests: int = 256
    """Newest request ids that are remembered."""
    max_bytes: int = 64 * 2**20
    """Of all data together. Beyond it the oldest segments give way, then a write is refused. A journal
    reserves it for each session it holds."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("num_sink_blocks", "num_warmup_blocks") else 1
            most = MAX_KEPT if name.startswith("num_") else 2**40
            if not least <= value <= most:
                raise InvalidEntry(f"{name}: {value} is not in {least}..{most}")


@dataclass(frozen=True)
class NewSession:
    """A session to create."""

    __pydantic_config__ = IN_JSON

    session: str
    """Its id, unique for ever: letters, digits, `.`, `_`, `-`, at most 64."""
    tenant: str
    """Whose it is: 1 to 256 characters."""
    specification: bytes
    """What was asked, as the gateway serialized it; the journal never looks inside."""
    prompts: Mapping[int, str]
    """Prompt timeline asked for at the start; must have one for block 0."""
    request_id: str = ""
    """The same id of the same tenant finds the session created before; empty: no such memory."""
    limits: Limits = field(default_factory=Limits)
    switch_mode: SwitchMode = "immediate"
    """How the prompts of the timeline take effect."""
    loras: Loras = field(default=(), compare=False)
    """From block 0 on; the specification has them, too."""
    brief: bytes = field(default=b"", compare=False)
    """The specification as lists show it, in fewer bytes. Empty: they show all of it."""
    beginning: Beginning = field(default_factory=Beginning, compare=False)
    """What it goes on from. Kept in the record, not here."""
    mixes: Mapping[int, tuple[WeightedPrompt, ...]] = field(default_factory=dict)
    """Of prompts of the timeline that mix several; `prompts` has there what people read."""
    transitions: Mapping[int, Transition] = field(default_factory=dict)
    """Of prompts of the timeline that take over gradually."""
    goes_on: bool = field(default=False, compare=False)
    """Whether latents came before its first block: a gateway that knows of none would make it without them.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", dict(self.prompts))
        if not SESSION.fullmatch(self.session):
            raise InvalidEntry(f"session: {self.session[:80]!r} does not match {SESSION.pattern}")
        check_name("tenant", self.tenant)
        check_name("request_id", self.request_id or "none")
        if 0 not in self.prompts or min(self.prompts) < 0:
            raise InvalidEntry(f"prompts: blocks {sorted(self.prompts)[:8]} must start with 0")
        if len(self.prompts) > self.limits.num_prompts:
            raise InvalidEntry(f"prompts: {len(self.prompts)} are more than {self.limits.num_prompts}")

    def digest(self) -> str:
        """The same for two that ask for the same under one request id, whatever their session ids and
        limits."""
        prompts = sorted(self.prompts.items())
        content = (self.tenant, self.request_id, self.specification, prompts, self.switch_mode)
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def without_beginning(self) -> "NewSession":
        before = min(self.beginning.latents, default=0)
        return replace(self, beginning=Beginning(), goes_on=before < 0) if self.beginning.latents else self

    def in_brief(self) -> "NewSession":
        """As lists show it, without its prompts."""
        specification = self.brief or self.specification
        return replace(self, specification=specification, prompts={0: ""}, brief=b"", goes_on=False)


@dataclass(frozen=True)
class Prompt:
    """A prompt of the session: accepted, then applied or refused."""

    __pydantic_config__ = IN_JSON

    request_id: str
    """`create/BLOCK` for those the session was created with."""
    prompt: str
    mode: SwitchMode
    at_block: int | None
    """Asked to begin with this block; None: as soon as possible."""
    accepted_ms: int
    """Wall clock, since 1970."""
    applied_ms: int | None = None
    """None: not applied yet."""
    first_block_touched: int | None = None
    """From the receipt; None: not applied yet."""
    first_block_full: int | None = None
    unknown_words: tuple[str, ...] = ()
    refused: bytes = b""
    """Why it will never take effect, opaque; empty: not refused."""
    loras: Loras | None = None
    """That it brings; None: those that rule where it takes effect, which its receipt tells."""
    mix: tuple[WeightedPrompt, ...] = ()
    """What it is made of, where it is several; `prompt` is then what people read."""
    transition: Transition | None = None
    """None: it takes over at once."""
    last_block_mixed: int | None = None
    """From the receipt; None: not applied yet, or no transition."""

    @property
    def is_created(self) -> bool:
        """Whether it belongs to the timeline that the session was created with."""
        return self.request_id.startswith(CREATED)

    @property
    def first_block(self) -> int | None:
        """Where it begins, if that is more than a wish: None for a switch that waits or was refused."""
        if self.refused:
            return None
        if self.first_block_touched is None and self.is_created:
            return self.at_block
        return self.first_block_touched

    @property
    def num_bytes(self) -> int:
        loras = sum(len(name) for name, _ in self.loras or ())
        texts = (self.prompt, *(part.text for part in self.mix))
        num_bytes = sum(len(text.encode()) for text in texts) + loras
        return num_bytes + len(self.refused) + sum(map(len, self.unknown_words))


@dataclass(frozen=True)
class KeptSegment:
    """One encoded block."""

    block: int
    data: bytes
    """Opaque."""


@dataclass(frozen=True)
class Record:
    """Everything that is known of one session."""

    origin: NewSession
    created_ms: int
    """Wall clock, since 1970."""
    limits: Limits
    """At first those of `origin`."""
    prompts: tuple[Prompt, ...]
    """In the order accepted; applied ones stand behind the others, in the order of their receipts."""
    num_given_blocks: int = 0
    """Blocks of a clip that came before block 0 and is not sent: its latents have the indices below 0. Stages
    and decoders count from the first of them."""
    next_stage_block: int = 0
    """The first block without journalled latents: a new stage starts here."""
    next_decoder_block: int = 0
    """The first block without a journalled segment: a new decoder starts here."""
    num_acked: int = 0
    """Blocks that the controller has acknowledged: 0 to num_acked - 1."""
    cuts: tuple[int, ...] = ()
    """Blocks that shots begin with after a cut, ascending; the newest MAX_CUTS of them."""
    latents: Mapping[int, bytes] = field(default_factory=dict)
    """Serialized clean latents by block, ascending. Gone when the session has ended. See `first_frame`, too.
    """
    segments: tuple[KeptSegment, ...] = ()
    """The newest ones, without gaps, up to `next_decoder_block`."""
    notes: Mapping[str, bytes] = field(default_factory=dict)
    """Small facts of the gateway by name."""
    requests: Mapping[str, bytes] = field(default_factory=dict)
    """Request id -> digest of its content, oldest first."""
    end: bytes = b""
    """Opaque; empty: it has not ended."""
    revision: int = 0
    """Number of changes so far."""
    num_bytes: int = 0
    """Of everything above that counts against `limits.max_bytes`."""

    @property
    def session(self) -> str:
        return self.origin.session

    @property
    def tenant(self) -> str:
        return self.origin.tenant

    @property
    def pinned(self) -> int | None:
        """The block that the shot of the newest latents began with, or the one before it; None: no cut came
        before them."""
        before = bisect_left(self.cuts, self.next_stage_block)
        return self.cuts[before - 1] if before else None

    @property
    def first_frame(self) -> bytes | None:
        """The latent frame that block 0 begins with, as a serialized block of one frame; None: it is made as
        all others, or is there already."""
        return None if self.num_given_blocks or self.next_stage_block else self.latents.get(-1)

    @property
    def oldest_segment_block(self) -> int:
        """Of the segments kept; `next_decoder_block` where none is."""
        return self.next_decoder_block - len(self.segments)

    def brief(self) -> "Record":
        """As lists show it: the origin in brief, none of what can be large; cursors and `num_bytes` stay."""
        notes = {name: self.notes[name] for name in BRIEF_NOTES if name in self.notes}
        none: dict[str, Any] = {"prompts": (), "latents": {}, "segments": (), "requests": {}}
        return replace(self, origin=self.origin.in_brief(), notes=notes, **none)

    @property
    def brief_bytes(self) -> int:
        """Of a brief record."""
        return len(self.origin.specification) + sum(map(len, self.notes.values())) + len(self.end)

    def timeline(self) -> dict[int, str]:
        """What people read of the `entries`."""
        return {block: entry.prompt for block, entry in self.entries().items()}

    def entries(self) -> dict[int, Prompt]:
        """Prompts by the block they begin with, for reopening: in force, or of the timeline asked for."""
        created = [entry for entry in self.prompts if entry.first_block_touched is None]
        told = [*created, *self.in_force()]
        return {entry.first_block: entry for entry in told if entry.first_block is not None}

    def in_force(self) -> tuple[Prompt, ...]:
        """Those that have taken effect, by the block they begin with, without what never came to rule: one
        that touches earlier blocks than one applied before it takes all that follows, too."""
        ruling: list[Prompt] = []
        for entry in self.prompts:  # in the order of the receipts
            if (touched := entry.first_block_touched) is not None:
                while ruling and (ruling[-1].first_block_touched or 0) >= touched:
                    ruling.pop()
                ruling.append(entry)
        return tuple(ruling)

    def loras_at(self, block: int) -> Loras:
        """Those of the prompt that rules there, as far as prompts have begun. Blocks of a clip, which are
        below 0, have the first prompt's."""
        told = [
            entry
            for begins, entry in self.entries().items()
            if entry.loras is not None and begins <= max(0, block)
        ]
        newest = max(told, key=lambda entry: entry.first_block or 0, default=None)
        return newest.loras or () if newest else ()

    def loras_needed(self) -> frozenset[str]:
        """Names of all that kept latents were made with, or blocks to come may be."""
        ahead = (
            entry.loras
            for entry in self.prompts
            if entry.loras and not entry.refused and (entry.first_block or MAX_BLOCK) > self.next_stage_block
        )
        ruling = (self.loras_at(block) for block in (*self.latents, self.next_stage_block))
        return frozenset(name for loras in (*ahead, *ruling) for name, _ in loras)

    @property
    def has_cuts(self) -> bool:
        """Whether shots of it began with a cut, or are to."""
        waiting = (entry for entry in self.prompts if entry.first_block_touched is None and not entry.refused)
        return bool(self.cuts) or any(entry.mode == "cut" for entry in waiting)

    def waiting(self) -> tuple[Prompt, ...]:
        """Switches accepted and neither applied nor refused: to be sent again, in this order."""
        return tuple(entry for entry in self.prompts if entry.first_block is None and not entry.refused)

    def find_prompt(self, request_id: str) -> Prompt | None:
        """The prompt accepted under this id."""
        return next((entry for entry in self.prompts if entry.request_id == request_id), None)

    def read(self, first_block: int, limit: int) -> tuple[KeptSegment, ...]:
        """Up to `limit` segments from this block on; empty if it is not made yet. Raises SegmentsGone."""
        start = first_block - self.oldest_segment_block
        if start < 0:
            raise SegmentsGone(self.session, self.oldest_segment_block)
        return self.segments[start : start + limit]


def new_record(new: NewSession, created_ms: int) -> Record:
    """The record of a session that has just been created. Raises JournalFull."""
    prompts = []
    for block, text in sorted(new.prompts.items()):
        begun = (created_ms, 0, 0) if block == 0 else (None, None, None)
        entry = Prompt(f"{CREATED}{block}", text, new.switch_mode, block, created_ms, *begun)
        mix, transition = new.mixes.get(block, ()), new.transitions.get(block)
        loras = None if block else new.loras
        prompts.append(replace(entry, loras=loras, mix=mix, transition=transition))
    beginning = new.beginning
    num_bytes = len(new.specification) + sum(entry.num_bytes for entry in prompts)
    num_bytes += sum(map(len, beginning.latents.values()))
    record = Record(
        new.without_beginning(),
        created_ms,
        new.limits,
        tuple(prompts),
        num_given_blocks=beginning.num_given_blocks,
        next_stage_block=beginning.next_block,
        latents=beginning.latents,
        num_bytes=num_bytes,
    )
    if num_bytes > new.limits.max_bytes:
        raise JournalFull(f"session {new.session}: {num_bytes} bytes pass max_bytes {new.limits.max_bytes}")
    return record


def check_name(what: str, name: str) -> None:
    """Raise InvalidEntry unless it has 1 to MAX_NAME_CHARACTERS printable characters."""
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
        raise InvalidEntry(f"{what}: {name[:80]!r} is not 1 to {MAX_NAME_CHARACTERS} printable characters")
