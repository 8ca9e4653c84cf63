"""The changes of a record, and `apply`: pure, so that every journal follows the same rules.

Each change may be repeated: what is in the record already is left as it is.
"""

from dataclasses import dataclass, replace
from functools import reduce

from services.gateway.journal.errors import (
    InvalidEntry,
    JournalFull,
    OutOfOrder,
    RequestConflict,
    SessionEnded,
)
from services.gateway.journal.record import (
    Prompt,
    Record,
    Segment,
    SwitchMode,
    check_request_id,
    ruling_prompts,
)


@dataclass(frozen=True)
class LatentsMade:
    """A clean block came from the stage."""

    block: int
    data: bytes


@dataclass(frozen=True)
class SegmentMade:
    """A segment came from the decoder."""

    segment: Segment


@dataclass(frozen=True)
class PromptAccepted:
    """A prompt switch was accepted."""

    request_id: str
    prompt: str
    mode: SwitchMode = "immediate"
    at_block: int | None = None


@dataclass(frozen=True)
class PromptApplied:
    """The stage's receipt of a switch."""

    request_id: str
    first_block_touched: int
    first_block_full: int


@dataclass(frozen=True)
class SegmentsAcked:
    """The controller has everything up to this sequence number."""

    sequence: int


@dataclass(frozen=True)
class Ended:
    """The session is over; its latents go, its segments stay for those still reading."""

    reason: str


Change = LatentsMade | SegmentMade | PromptAccepted | PromptApplied | SegmentsAcked | Ended


def apply(record: Record, *changes: Change) -> Record:
    """The record after all of these changes; raises a JournalError and changes nothing if one is refused."""
    return reduce(_apply, changes, record)


def _apply(record: Record, change: Change) -> Record:
    if record.end_reason:
        if isinstance(change, Ended):
            return record
        raise SessionEnded(f"session {record.session}: ended: {record.end_reason}")
    match change:
        case LatentsMade():
            after = _add_latents(record, change)
        case SegmentMade(segment):
            after = _add_segment(record, segment)
        case PromptAccepted():
            after = _accept(record, change)
        case PromptApplied():
            after = _receipt(record, change)
        case SegmentsAcked(sequence):
            after = _ack(record, sequence)
        case Ended(reason):
            if not reason:
                raise InvalidEntry("reason is empty")
            after = replace(record, end_reason=reason, latents={})
    return record if after is record else _bounded(replace(after, revision=record.revision + 1))


def _add_latents(record: Record, made: LatentsMade) -> Record:
    cursors = record.cursors
    if made.block < cursors.next_stage_block:
        return record
    if made.block > cursors.next_stage_block:
        raise OutOfOrder(f"latents: block {made.block} given, {cursors.next_stage_block} is next")
    latents = {**record.latents, made.block: made.data}
    return _trimmed(
        replace(record, latents=latents, cursors=replace(cursors, next_stage_block=made.block + 1))
    )


def _add_segment(record: Record, segment: Segment) -> Record:
    cursors = record.cursors
    if segment.sequence < cursors.next_sequence:
        return record
    if (segment.sequence, segment.block) != (cursors.next_sequence, cursors.next_decoder_block):
        due = f"sequence {cursors.next_sequence} of block {cursors.next_decoder_block}"
        raise OutOfOrder(
            f"segment: sequence {segment.sequence} of block {segment.block} given, {due} is next"
        )
    if segment.block >= cursors.next_stage_block:
        raise OutOfOrder(f"segment: block {segment.block} has no latents in the journal yet")
    cursors = replace(cursors, next_sequence=segment.sequence + 1, next_decoder_block=segment.block + 1)
    kept = (*record.segments, segment)[-record.origin.limits.num_segments :]
    return _trimmed(replace(record, segments=kept, cursors=cursors))


def _trimmed(record: Record) -> Record:
    """Without the latents that no stage and no decoder can need again."""
    limits, cursors = record.origin.limits, record.cursors
    oldest = min(
        cursors.next_stage_block - limits.num_recent_blocks,
        cursors.next_decoder_block - limits.num_warmup_blocks,
    )
    kept = {
        block: data
        for block, data in record.latents.items()
        if block < limits.num_sink_blocks or block >= oldest
    }
    return replace(record, latents=kept)


def _accept(record: Record, accepted: PromptAccepted) -> Record:
    check_request_id(accepted.request_id)
    if not accepted.request_id:
        raise InvalidEntry("request_id is empty")
    entry = Prompt(accepted.request_id, accepted.prompt, accepted.mode, accepted.at_block)
    known = _find(record, accepted.request_id)
    if known is None:
        return replace(record, prompts=(*record.prompts, entry))
    if replace(known, first_block_touched=None, first_block_full=None) != entry:
        raise RequestConflict(f"request_id {accepted.request_id}: was used for another switch")
    return record


def _receipt(record: Record, receipt: PromptApplied) -> Record:
    known = _find(record, receipt.request_id)
    if known is None:
        raise OutOfOrder(f"receipt: no switch {receipt.request_id} was accepted")
    touched, full = receipt.first_block_touched, receipt.first_block_full
    if not 0 <= touched <= full:
        raise InvalidEntry(f"receipt: first blocks touched {touched} and full {full}")
    applied = replace(known, first_block_touched=touched, first_block_full=full)
    if known.first_block_touched is not None:
        if applied != known:
            raise RequestConflict(f"request_id {receipt.request_id}: has another receipt")
        return record
    others = (entry for entry in record.prompts if entry is not known)
    return replace(record, prompts=(*others, applied))


def _find(record: Record, request_id: str) -> Prompt | None:
    return next((entry for entry in record.prompts if entry.request_id == request_id), None)


def _ack(record: Record, sequence: int) -> Record:
    cursors = record.cursors
    if sequence >= cursors.next_sequence:
        raise OutOfOrder(f"ack: segment {sequence} was not made; {cursors.next_sequence} is next")
    if sequence <= cursors.acked_sequence:
        return record
    return replace(record, cursors=replace(cursors, acked_sequence=sequence))


def _bounded(record: Record) -> Record:
    """Within the limits: old prompts, then old segments give way; JournalFull where that is not enough."""
    limits = record.origin.limits
    if len(record.prompts) > limits.num_prompts:
        record = replace(record, prompts=_without_oldest_prompt(record))
    excess = record.num_bytes - limits.max_bytes
    segments = record.segments
    while excess > 0 and len(segments) > 1:
        excess -= len(segments[0].data)
        segments = segments[1:]
    if excess > 0:
        raise JournalFull(
            f"session {record.session}: {limits.max_bytes + excess} bytes with one segment, "
            f"more than max_bytes {limits.max_bytes}"
        )
    return replace(record, segments=segments)


def _without_oldest_prompt(record: Record) -> tuple[Prompt, ...]:
    applied = [entry for entry in record.prompts if entry.first_block_touched is not None]
    ruling = ruling_prompts(applied, [*record.latents, record.cursors.next_stage_block])
    for entry in applied:
        is_past = (entry.first_block_touched or 0) <= record.cursors.next_stage_block
        if is_past and entry.request_id not in ruling:
            return tuple(kept for kept in record.prompts if kept is not entry)
    raise JournalFull(
        f"session {record.session}: {record.origin.limits.num_prompts} prompts wait or rule kept blocks"
    )
