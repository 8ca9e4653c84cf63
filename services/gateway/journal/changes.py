"""The changes of a record: what may be written to a journal."""

from dataclasses import dataclass

from cascade_core.prompts import Transition, WeightedPrompt
from services.gateway.journal.record import Limits, Loras, SwitchMode


@dataclass(frozen=True)
class LatentsMade:
    """A clean block came from the stage: exactly `next_stage_block`."""

    block: int
    data: bytes


@dataclass(frozen=True)
class SegmentMade:
    """A segment came from the decoder: exactly `next_decoder_block`, of a block whose latents are known."""

    block: int
    data: bytes


@dataclass(frozen=True)
class Acked:
    """The controller has blocks 0 to num_blocks - 1; fewer than before changes nothing."""

    num_blocks: int


@dataclass(frozen=True)
class PromptAccepted:
    """A prompt switch was accepted; a repeat changes nothing, whatever its time."""

    request_id: str
    prompt: str
    mode: SwitchMode
    at_block: int | None
    accepted_ms: int
    loras: Loras | None = None
    """None: those that rule where it takes effect."""
    mix: tuple[WeightedPrompt, ...] = ()
    transition: Transition | None = None


@dataclass(frozen=True)
class PromptApplied:
    """The stage's receipt of a switch; the first one stands."""

    request_id: str
    first_block_touched: int
    first_block_full: int
    applied_ms: int
    unknown_words: tuple[str, ...] = ()
    loras: Loras | None = None
    """None: the switch's own, or those that rule before it."""
    last_block_mixed: int | None = None


@dataclass(frozen=True)
class PromptRefused:
    """The stage will never apply this switch; the first such status stands."""

    request_id: str
    status: bytes


@dataclass(frozen=True)
class Noted:
    """A small fact of the gateway; the value b"" removes it."""

    name: str
    value: bytes


@dataclass(frozen=True)
class Requested:
    """A mutation was asked for under this id; a repeat with the same digest changes nothing."""

    request_id: str
    digest: bytes


@dataclass(frozen=True)
class LimitsSet:
    """From here on these limits hold; what was dropped before does not come back."""

    limits: Limits


@dataclass(frozen=True)
class Ended:
    """The session is over; its latents go, its segments stay for those still reading."""

    end: bytes


Change = (
    LatentsMade
    | SegmentMade
    | Acked
    | PromptAccepted
    | PromptApplied
    | PromptRefused
    | Noted
    | Requested
    | LimitsSet
    | Ended
)
