"""The journal's interface: what the gateway may rely on, whichever store is behind it."""

import base64
import binascii
from dataclasses import dataclass
from typing import Protocol

from services.gateway.journal.changes import Change
from services.gateway.journal.errors import InvalidEntry, JournalFull, SegmentsGone
from services.gateway.journal.record import MAX_KEPT, NewSession, Record, Segment

MAX_PAGE_SIZE = 1000


@dataclass(frozen=True)
class Lease:
    """The right to write: it ends, without notice, when somebody claims the session under a later epoch."""

    session: str
    owner: str
    """One process's life: a gateway that restarts is another owner."""
    epoch: int
    """1 at creation; each claim adds 1, also the owner's own."""


@dataclass(frozen=True)
class Creation:
    """Answer to `create`."""

    session: str
    """The one created earlier, where the request id was known."""
    lease: Lease | None
    """None: another owner has it."""
    is_new: bool


@dataclass(frozen=True)
class Summary:
    """A session in a list."""

    session: str
    tenant: str
    created_ms: int
    owner: str
    epoch: int
    end_reason: str
    """Empty: it has not ended."""


@dataclass(frozen=True)
class Page:
    """Some sessions of a tenant, oldest first. A page may be short, even empty, before the last one."""

    sessions: tuple[Summary, ...]
    next_page_token: str
    """Empty: there are no more."""


@dataclass(frozen=True)
class Behind:
    """What the store does not have yet."""

    num_writes: int = 0
    num_sessions: int = 0
    seconds: float = 0.0
    """Since the oldest such write."""


class Journal(Protocol):
    """What sessions can be rebuilt from.

    One owner writes a session at a time: the one whose lease has the latest epoch. All of one `write` is
    stored, or nothing.
    """

    async def create(self, new: NewSession, owner: str, lease_s: float) -> Creation:
        """Create a session and own it.

        Raises RequestConflict (request id known with other content), JournalFull, JournalUnavailable.
        """

    async def claim(self, session: str, owner: str, lease_s: float) -> Lease:
        """Own a session from here on, with the next epoch.

        The owner itself may claim at any time, to fence its own former streams. Raises NoSuchSession,
        SessionEnded, LeaseHeld, JournalFull, JournalUnavailable.
        """

    async def renew(self, lease: Lease, lease_s: float) -> None:
        """Keep others from claiming for that long from now, and the session's data alive. Raises Fenced."""

    async def release(self, lease: Lease) -> None:
        """End the lease and let anybody claim at once. Raises Fenced."""

    async def write(self, lease: Lease, *changes: Change) -> None:
        """Note these changes, in order; `Ended` ends the lease, too.

        Raises Fenced, OutOfOrder, RequestConflict, InvalidEntry, JournalFull.
        """

    async def load(self, session: str) -> Record:
        """Everything needed to reopen it. Raises NoSuchSession, JournalUnavailable."""

    async def read_segments(self, session: str, after_sequence: int, limit: int) -> tuple[Segment, ...]:
        """Up to `limit` segments after this one (-1: from the first); empty if there are none yet.

        Raises NoSuchSession, SegmentsGone, InvalidEntry, JournalUnavailable.
        """

    async def list_sessions(self, tenant: str, page_token: str = "", page_size: int = 100) -> Page:
        """A tenant's sessions, ended ones too for a while. Raises InvalidEntry, JournalUnavailable."""

    async def orphans(self, limit: int) -> list[str]:
        """Sessions whose lease ran out, longest ago first: candidates for `claim`, which decides."""

    def behind(self) -> Behind:
        """How far the store is behind what was written here."""

    async def close(self) -> None:
        """Stop, after a bounded try to store what is missing."""


def make_page_token(position: str) -> str:
    """An opaque token for the position after which the next page begins."""
    return base64.urlsafe_b64encode(position.encode()).decode()


def page_position(token: str) -> str:
    """What `make_page_token` was given. Raises InvalidEntry."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise InvalidEntry(f"page_token: {token[:80]!r} is not one of ours") from None


def place(created_ms: int, session: str) -> str:
    """A session's place in its tenant's list, ordered as text."""
    return f"{created_ms:015d}/{session}"


def check_page_size(page_size: int) -> None:
    """Raise InvalidEntry outside 1..MAX_PAGE_SIZE."""
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidEntry(f"page_size: {page_size} is not in 1..{MAX_PAGE_SIZE}")


def check_limit(limit: int) -> None:
    """Raise InvalidEntry outside 1..MAX_KEPT."""
    if not 1 <= limit <= MAX_KEPT:
        raise InvalidEntry(f"limit: {limit} is not in 1..{MAX_KEPT}")


def check_reserve(held: int, wanted: int, max_total_bytes: int) -> None:
    """Raise JournalFull where the reserves of all sessions would pass the total."""
    if held + wanted > max_total_bytes:
        raise JournalFull(
            f"{held} bytes are reserved, {wanted} more would pass max_total_bytes {max_total_bytes}"
        )


def check_kept(session: str, after_sequence: int, oldest: int) -> None:
    """Raise SegmentsGone where the one after `after_sequence` is older than the oldest kept."""
    if after_sequence + 1 < oldest:
        raise SegmentsGone(session, oldest)
