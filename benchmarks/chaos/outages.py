"""What was not there, from when to when."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Span = tuple[float, float]
"""From and to, on this process's monotonic clock."""


@dataclass
class Outages:
    """Of all processes and connections together."""

    _over: list[tuple[str, Span]] = field(default_factory=list)
    _open: dict[str, float] = field(default_factory=dict)

    @property
    def down(self) -> list[str]:
        """What is not there now."""
        return sorted(self._open)

    def begin(self, name: str) -> None:
        self._open.setdefault(name, time.monotonic())

    def end(self, name: str) -> None:
        start = self._open.pop(name, None)
        if start is not None:
            self._over.append((name, (start, time.monotonic())))

    def merged(self) -> list[Span]:
        """When anything was down: ascending, without overlaps; what is not over lasts until now."""
        return merge(span for _, span in self._all())

    def too_many(self, allowed: Mapping[str, int]) -> list[Span]:
        """When more of a kind were down than allowed; `allowed`: by the beginnings of their names."""
        found: list[Span] = []
        for kind, most in allowed.items():
            found += deeper([span for name, span in self._all() if name.startswith(kind)], most)
        return merge(found)

    def _all(self) -> list[tuple[str, Span]]:
        now = time.monotonic()
        return [*self._over, *((name, (start, now)) for name, start in self._open.items())]


def deeper(spans: Sequence[Span], depth: int) -> list[Span]:
    """Where more than so many of them lie over each other."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    found: list[Span] = []
    level, since_s = 0, 0.0
    for at_s, step in edges:
        if level == depth and step > 0:
            since_s = at_s
        elif level == depth + 1 and step < 0:
            found.append((since_s, at_s))
        level += step
    return found


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
