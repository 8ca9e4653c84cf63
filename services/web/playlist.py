"""The HLS playlists of what is kept: pure. A plain one (RFC 8216), and one for players that take segments in
parts (Low-Latency HLS, draft-pantos-hls-rfc8216bis)."""

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

from services.web.kept import Kept, KeptPart, KeptVideo

WINDOW = 64
"""Segments of a live playlist; with ENDLIST all that are kept."""


PICTURES = 4
"""Of a part; the session's first may have fewer."""


def playlist_of(video: KeptVideo, query: str, *, in_parts: bool = False) -> str:
    """At least one segment must be there. `query`: put behind each name; may be empty."""
    return "\n".join([*lines(video, query, in_parts=in_parts and not video.is_over), ""])


def lines(video: KeptVideo, query: str, *, in_parts: bool) -> Iterator[str]:
    skipped = 0 if video.is_over else max(0, len(video.segments) - WINDOW)
    shown = list(islice(video.segments, skipped, None))
    hidden = list(islice(video.segments, skipped + 1))
    num_cuts = video.num_cuts + sum(is_cut(*pair) for pair in pairwise(hidden))
    yield "#EXTM3U"
    yield "#EXT-X-VERSION:7"
    yield f"#EXT-X-TARGETDURATION:{target_s(shown)}"
    yield f"#EXT-X-MEDIA-SEQUENCE:{shown[0].sequence}"
    if in_parts:
        yield from rules(shown[-1])
    if num_cuts:
        yield f"#EXT-X-DISCONTINUITY-SEQUENCE:{num_cuts}"
    yield "#EXT-X-INDEPENDENT-SEGMENTS"
    before: Kept | None = None
    for kept in shown:
        if before is None or is_cut(before, kept):
            if before:
                yield "#EXT-X-DISCONTINUITY"
            yield f'#EXT-X-MAP:URI="{kept.init.name}{query}"'
            if video.started_ms is not None:
                yield f"#EXT-X-PROGRAM-DATE-TIME:{date_of(video.started_ms, kept)}"
        if in_parts:
            yield from part_lines(kept.parts, query)
        yield f"#EXTINF:{kept.duration_s:.6f},"
        yield f"{kept.sequence}.m4s{query}"
        before = kept
    if in_parts:
        yield from part_lines(video.parts, query)
        yield f'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="{next_part(video)}{query}"'
    if video.is_over:
        yield "#EXT-X-ENDLIST"


def rules(kept: Kept) -> Iterator[str]:
    """How a player keeps up. It stays behind by a segment, since blocks come one by one, and two parts."""
    part_s = PICTURES * kept.duration_s / kept.num_frames
    hold_back_s = kept.full_s + 2 * part_s
    yield f"#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={hold_back_s:.3f}"
    yield f"#EXT-X-PART-INF:PART-TARGET={part_s:.6f}"


def part_lines(parts: Iterable[KeptPart], query: str) -> Iterator[str]:
    for part in parts:
        independent = "" if part.index else ",INDEPENDENT=YES"
        name = part_name(part.sequence, part.epoch, part.index)
        yield f'#EXT-X-PART:DURATION={part.duration_s:.6f},URI="{name}{query}"{independent}'


def next_part(video: KeptVideo) -> str:
    """The name that it has where nothing is lost before."""
    if video.parts:
        newest = video.parts[-1]
        return part_name(newest.sequence, newest.epoch, newest.index + 1)
    kept = video.segments[-1]
    return part_name(kept.sequence + 1, kept.parts[-1].epoch if kept.parts else 1, 0)


def part_name(sequence: int, epoch: int, index: int) -> str:
    return f"{sequence}.{epoch}.{index}.m4s"


def is_cut(before: Kept, after: Kept) -> bool:
    """Whether the encoder is another one from here on."""
    return before.init != after.init


def target_s(shown: list[Kept]) -> int:
    """The same as long as the session lasts, though block 0 is shorter."""
    return max(1, math.ceil(max(kept.full_s for kept in shown) - 1e-6))


def date_of(started_ms: int, kept: Kept) -> str:
    """When its first picture would have come, had the video never paused; the same at every gateway."""
    date = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=started_ms, seconds=kept.start_s)
    return date.isoformat(timespec="milliseconds").replace("+00:00", "Z")
