"""What gives way so that a record keeps its limits: pure, and silent where nothing has to."""

from collections.abc import Iterable
from dataclasses import replace

from services.gateway.journal.errors import JournalFull
from services.gateway.journal.record import Prompt, Record
from services.gateway.journal.ruling import ruling_prompts


def without_old_latents(record: Record) -> Record:
    """Without those that no stage and no decoder can need again."""
    limits = record.limits
    oldest = min(
        record.next_stage_block - limits.num_recent_blocks,
        record.next_decoder_block - limits.num_warmup_blocks,
    )
    first = -record.num_given_blocks
    sink = range(first, first + limits.num_sink_blocks)
    kept = {*sink, record.pinned}
    gone = {block for block in record.latents if block < oldest and block not in kept}
    if not gone:
        return record
    freed = sizes(record.latents[block] for block in gone)
    latents = {block: data for block, data in record.latents.items() if block not in gone}
    return replace(record, latents=latents, num_bytes=record.num_bytes - freed)


def bounded(record: Record) -> Record:
    """Within the limits. Raises JournalFull where nothing that may give way is left."""
    if len(record.prompts) > record.limits.num_prompts:
        record = _without_old_prompts(record)
    if len(record.requests) > record.limits.num_requests:
        record = _without_old_requests(record)
    return _without_old_segments(record)


def _without_old_segments(record: Record) -> Record:
    """All unacknowledged ones and the newest `num_segments` stay, unless `max_bytes` forbids."""
    limits = record.limits
    num_bytes, first, end = record.num_bytes, record.oldest_segment_block, record.next_decoder_block
    spare = max(first, min(end - limits.num_segments, record.num_acked))
    start = first
    while start < spare or (num_bytes > limits.max_bytes and start < end - 1):
        num_bytes -= len(record.segments[start - first].data)
        start += 1
    if num_bytes > limits.max_bytes:
        raise JournalFull(
            f"session {record.session}: {num_bytes} bytes with one segment, "
            f"more than max_bytes {limits.max_bytes}"
        )
    if start == first:
        return record
    return replace(record, segments=record.segments[start - first :], num_bytes=num_bytes)


def _without_old_requests(record: Record) -> Record:
    excess = len(record.requests) - record.limits.num_requests
    old, kept = list(record.requests.items())[:excess], list(record.requests.items())[excess:]
    freed = sum(request_bytes(*item) for item in old)
    return replace(record, requests=dict(kept), num_bytes=record.num_bytes - freed)


def _without_old_prompts(record: Record) -> Record:
    ruling = ruling_prompts(record)

    def is_past(entry: Prompt) -> bool:
        begun = entry.first_block is not None and entry.first_block <= record.next_stage_block
        return bool(entry.refused) or (begun and entry.request_id not in ruling)

    excess = len(record.prompts) - record.limits.num_prompts
    old = [entry for entry in record.prompts if is_past(entry)][:excess]
    if len(old) < excess:
        raise JournalFull(
            f"session {record.session}: {record.limits.num_prompts} prompts wait or rule kept blocks"
        )
    gone = {entry.request_id for entry in old}
    prompts = tuple(entry for entry in record.prompts if entry.request_id not in gone)
    freed = sum(entry.num_bytes for entry in old)
    return replace(record, prompts=prompts, num_bytes=record.num_bytes - freed)


def request_bytes(request_id: str, digest: bytes) -> int:
    """What one remembered request counts."""
    return len(request_id) + len(digest)


def sizes(blobs: Iterable[bytes]) -> int:
    """All of their bytes."""
    return sum(map(len, blobs))
