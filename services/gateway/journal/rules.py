"""What each change does to a record: pure, so that every journal follows the same rules.

No change copies bytes, and none looks at more than what it touches: writing stays cheap for long sessions.
"""

from dataclasses import replace
from functools import reduce, singledispatch
from typing import Any

from services.gateway.journal.bounds import bounded, request_bytes, sizes, without_old_latents
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
from services.gateway.journal.errors import (
    InvalidEntry,
    JournalFull,
    OutOfOrder,
    RequestConflict,
    SessionEnded,
)
from services.gateway.journal.record import (
    CREATED,
    MAX_CUTS,
    KeptSegment,
    Prompt,
    Record,
    SwitchMode,
    check_name,
)

MAX_NOTES = 64
MAX_DIGEST_BYTES = 1024


def apply(record: Record, *changes: Change) -> Record:
    """The record after all of these changes; the very same where they change nothing.

    Raises SessionEnded, OutOfOrder, RequestConflict, InvalidEntry, JournalFull.
    """
    return reduce(_apply, changes, record)


def _apply(record: Record, change: Change) -> Record:
    if record.end:
        raise SessionEnded(f"session {record.session}: has ended")
    after = _after(change, record)
    return after if after is record else bounded(after)


@singledispatch
def _after(change: Any, record: Record) -> Record:
    raise TypeError(f"no change: {change!r}")


def _changed(record: Record, grown_bytes: int, **values: Any) -> Record:
    num_bytes = record.num_bytes + grown_bytes
    return replace(record, revision=record.revision + 1, num_bytes=num_bytes, **values)


@_after.register
def _(change: LatentsMade, record: Record) -> Record:
    if change.block != record.next_stage_block:
        raise OutOfOrder(f"latents: block {change.block} given, {record.next_stage_block} is next")
    latents = {**record.latents, change.block: change.data}
    return without_old_latents(
        _changed(record, len(change.data), latents=latents, next_stage_block=change.block + 1)
    )


@_after.register
def _(change: SegmentMade, record: Record) -> Record:
    if change.block != record.next_decoder_block:
        raise OutOfOrder(f"segment: block {change.block} given, {record.next_decoder_block} is next")
    if change.block >= record.next_stage_block:
        raise OutOfOrder(f"segment: block {change.block} has no latents in the journal yet")
    segments = (*record.segments, KeptSegment(change.block, change.data))
    return without_old_latents(
        _changed(record, len(change.data), segments=segments, next_decoder_block=change.block + 1)
    )


@_after.register
def _(change: Acked, record: Record) -> Record:
    if change.num_blocks > record.next_decoder_block:
        raise OutOfOrder(f"ack: {change.num_blocks} blocks, only {record.next_decoder_block} were made")
    if change.num_blocks <= record.num_acked:
        return record
    return _changed(record, 0, num_acked=change.num_blocks)


@_after.register
def _(change: PromptAccepted, record: Record) -> Record:
    check_name("request_id", change.request_id)
    if change.request_id.startswith(CREATED):
        raise InvalidEntry(f"request_id: {CREATED} is for prompts given at creation")
    known = record.find_prompt(change.request_id)
    if known is None:
        entry = Prompt(change.request_id, *_asked(change), change.accepted_ms)
        entry = replace(entry, loras=change.loras, mix=change.mix, transition=change.transition)
        return _changed(record, entry.num_bytes, prompts=(*record.prompts, entry))
    is_resolved = change.loras is None and known.first_block_touched is not None
    loras = known.loras if is_resolved else change.loras
    asked = (*_asked(change), loras, change.mix, change.transition)
    if (*_asked(known), known.loras, known.mix, known.transition) != asked:
        raise RequestConflict(f"request_id {change.request_id}: was used for another switch")
    return record


@_after.register
def _(change: PromptApplied, record: Record) -> Record:
    known = _accepted(record, change.request_id)
    if known.refused:
        raise OutOfOrder(f"receipt: switch {change.request_id} was refused")
    if known.first_block_touched is not None:
        return record
    touched, full = change.first_block_touched, change.first_block_full
    if not 0 <= touched <= full:
        raise InvalidEntry(f"receipt: first blocks touched {touched} and full {full}")
    own = known.loras if change.loras is None else change.loras
    loras = record.loras_at(touched) if own is None else own
    applied = replace(
        known,
        applied_ms=change.applied_ms,
        first_block_touched=touched,
        first_block_full=full,
        unknown_words=tuple(change.unknown_words),
        loras=loras,
        last_block_mixed=change.last_block_mixed,
    )
    others = (entry for entry in record.prompts if entry is not known)
    cuts = _with_cut(record, touched) if known.mode == "cut" else record.cuts
    return _changed(record, applied.num_bytes - known.num_bytes, prompts=(*others, applied), cuts=cuts)


@_after.register
def _(change: PromptRefused, record: Record) -> Record:
    known = _accepted(record, change.request_id)
    if known.refused:
        return record
    if known.first_block_touched is not None:
        raise OutOfOrder(f"receipt: switch {change.request_id} was applied")
    if not change.status:
        raise InvalidEntry("status is empty")
    refused = replace(known, refused=change.status)
    prompts = tuple(refused if entry is known else entry for entry in record.prompts)
    return _changed(record, len(change.status), prompts=prompts)


@_after.register
def _(change: Noted, record: Record) -> Record:
    check_name("name", change.name)
    before = record.notes.get(change.name, b"")
    if change.value == before:
        return record
    others = {name: value for name, value in record.notes.items() if name != change.name}
    notes = {**others, change.name: change.value} if change.value else others
    if len(notes) > MAX_NOTES:
        raise JournalFull(f"session {record.session}: {len(notes)} notes, more than {MAX_NOTES}")
    return _changed(record, len(change.value) - len(before), notes=notes)


@_after.register
def _(change: Requested, record: Record) -> Record:
    check_name("request_id", change.request_id)
    if len(change.digest) > MAX_DIGEST_BYTES:
        raise InvalidEntry(f"digest: {len(change.digest)} bytes, more than {MAX_DIGEST_BYTES}")
    known = record.requests.get(change.request_id)
    if known is None:
        requests = {**record.requests, change.request_id: change.digest}
        return _changed(record, request_bytes(change.request_id, change.digest), requests=requests)
    if known != change.digest:
        raise RequestConflict(f"request_id {change.request_id}: was used for something else")
    return record


@_after.register
def _(change: LimitsSet, record: Record) -> Record:
    if change.limits == record.limits:
        return record
    return without_old_latents(_changed(record, 0, limits=change.limits))


@_after.register
def _(change: Ended, record: Record) -> Record:
    if not change.end:
        raise InvalidEntry("end is empty")
    return _changed(record, len(change.end) - sizes(record.latents.values()), end=change.end, latents={})


def _with_cut(record: Record, block: int) -> tuple[int, ...]:
    """What a session begins with needs no cut."""
    is_first = block == -record.num_given_blocks
    return record.cuts if is_first else tuple(sorted({*record.cuts, block}))[-MAX_CUTS:]


def _accepted(record: Record, request_id: str) -> Prompt:
    known = record.find_prompt(request_id)
    if known is None:
        raise OutOfOrder(f"receipt: no switch {request_id} was accepted")
    return known


def _asked(switch: Prompt | PromptAccepted) -> tuple[str, SwitchMode, int | None]:
    return switch.prompt, switch.mode, switch.at_block
