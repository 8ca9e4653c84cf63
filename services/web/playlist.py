"""The HLS playlist of what is kept (RFC 8216): pure."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

from services.web.kept import Kept, KeptVideo

WINDOW = 64
"""Segments of a live playlist; with ENDLIST all that are kept."""


def playlist_of(video: KeptVideo, query: str) -> str:
    """At least one segment must be there. `query`: put behind each name; may be empty."""
    return "\n".join([*lines(video, query), ""])


def lines(video: KeptVideo, query: str) -> Iterator[str]:
    skipped = 0 if video.is_over else max(0, len(video.segments) - WINDOW)
    shown = list(islice(video.segments, skipped, None))
    hidden = list(islice(video.segments, skipped + 1))
    num_cuts = video.num_cuts + sum(is_cut(*pair) for pair in pairwise(hidden))
    yield "#EXTM3U"
    yield "#EXT-X-VERSION:7"
    yield f"#EXT-X-TARGETDURATION:{target_s(shown)}"
    yield f"#EXT-X-MEDIA-SEQUENCE:{shown[0].sequence}"
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
        yield f"#EXTINF:{kept.duration_s:.6f},"
        yield f"{kept.sequence}.m4s{query}"
        before = kept
    if video.is_over:
        yield "#EXT-X-ENDLIST"


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
