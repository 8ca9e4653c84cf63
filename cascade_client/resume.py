"""When and how to come back after a loss: the rules of the contract as pure code."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from cascade_client.errors import CascadeClientError, SequenceGap

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 10.0
LOST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
WORTH_WAITING = frozenset({"OVERLOADED", "RATE_LIMITED", "FIRST_MESSAGE_LATE"})
"""Reasons that pass by themselves, whatever their code."""


class RetryBackoff:
    """0 to 500 ms at random, doubled with each failure up to 10 s."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._longest_s = FIRST_WAIT_S

    def next_s(self, at_least_s: float | None = None) -> float:
        """Seconds to wait now. `at_least_s`: what the server asked for."""
        wait_s = self._uniform(0, self._longest_s)
        self._longest_s = min(2 * self._longest_s, LONGEST_WAIT_S)
        return (at_least_s or 0.0) + wait_s

    def reset(self) -> None:
        """It worked."""
        self._longest_s = FIRST_WAIT_S


def may_reconnect(error: CascadeClientError) -> bool:
    """Whether attaching again can help after a stream ended so."""
    return error.code in LOST or error.reason in WORTH_WAITING


def may_repeat(error: CascadeClientError) -> bool:
    """Whether a unary call may be sent again, with the same request_id."""
    passing = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return error.code in passing or error.reason in WORTH_WAITING


@dataclass
class Position:
    """Which segments have arrived: drops those known already, and names those that are missing."""

    last: int = 0
    """The highest sequence received; 0: none."""
    next: int = 0
    """The sequence that must come next; 0: whatever comes."""
    num_repeated: int = 0
    """Segments that came and were known."""

    def attach(self, next_sequence: int, *, may_skip: bool) -> int | None:
        """A stream begins. Returns the first sequence left out, None if none is.

        Raises SequenceGap where segments are missing that may not be.
        """
        missed = self.last + 1 if self.last and next_sequence > self.last + 1 else None
        if missed and not may_skip:
            raise SequenceGap(missed, next_sequence)
        self.next = max(self.next, next_sequence) if not self.last else max(self.last + 1, next_sequence)
        return missed

    def skip(self, next_sequence: int) -> None:
        """The server said that it goes on there."""
        self.next = max(self.next, next_sequence)

    def accept(self, sequence: int) -> bool:
        """Whether the segment is new. Raises SequenceGap."""
        if self.next and sequence > self.next:
            raise SequenceGap(self.next, sequence)
        if sequence <= self.last or sequence < self.next:
            self.num_repeated += 1
            return False
        self.last, self.next = sequence, sequence + 1
        return True
