"""What was not there, from when to when."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Span = tuple[float, float]
"""From and to, on this process's monotonic clock."""


@dataclass
class Outages:
    """Of all processes and connections together."""

    spans: list[Span] = field(default_factory=list)
    """Those that are over."""
    _open: dict[str, float] = field(default_factory=dict)

    @property
    def down(self) -> list[str]:
        """What is not there now."""
        return sorted(self._open)

    @property
    def all_up_since(self) -> float:
        """The end of the last outage so far; only while nothing is down."""
        return max((end for _, end in self.spans), default=0.0)

    def begin(self, name: str) -> None:
        self._open.setdefault(name, time.monotonic())

    def end(self, name: str) -> None:
        start = self._open.pop(name, None)
        if start is not None:
            self.spans.append((start, time.monotonic()))

    def merged(self) -> list[Span]:
        """Ascending, without overlaps; what is not over lasts until now."""
        now = time.monotonic()
        return merge([*self.spans, *((start, now) for start in self._open.values())])


def merge(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def longest_without(span: Span, others: Sequence[Span]) -> float:
    """Seconds of the longest part of a span that none of the others, ascending and apart, touches."""
    at, end = span
    longest = 0.0
    for start, stop in others:
        if stop > at and start < end:
            longest = max(longest, start - at)
            at = stop
    return max(longest, end - at)
