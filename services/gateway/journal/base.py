"""The journal's interface: what the gateway may rely on, whichever store is behind it."""

import itertools
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from services.gateway.journal.changes import Change
from services.gateway.journal.errors import InvalidEntry, JournalFull, LeaseLost
from services.gateway.journal.record import NewSession, Record
from services.gateway.journal.running import RunningSession

MAX_PAGE_SIZE = 1000
PAGE_BYTES = 2**20
PLACE = re.compile(r"[0-9]{15}/[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Lease:
    """The right to write: it ends, without notice, when somebody claims the session under a later epoch."""

    session: str
    owner: str
    """One process's life: a gateway that restarts is another owner."""
    epoch: int
    """1 at creation; each claim adds 1, also the owner's own, and so does `advance`."""


@dataclass(frozen=True)
class Creation:
    """Answer to `create`."""

    session: str
    """The one created earlier, where the request id was known."""
    lease: Lease | None
    """None: the request came before. Whoever wants the session claims it."""
    is_new: bool


@dataclass(frozen=True)
class Summary:
    """A session as lists show it."""

    record: Record
    """In brief."""
    owner: str
    """Who claimed it last."""
    epoch: int
    lease_left_s: float
    """0: anybody may claim it, unless it has ended."""


@dataclass(frozen=True)
class Page:
    """Some sessions of a tenant, newest first. A page may be short, even empty, before the last one: no more
    is read for it than PAGE_BYTES, or one session."""

    sessions: tuple[Summary, ...]
    next_page_token: str
    """Empty: there are no more."""


@dataclass(frozen=True)
class Behind:
    """What the store does not have yet."""

    num_writes: int = 0
    """Changes."""
    num_sessions: int = 0
    seconds: float = 0.0
    """Since the oldest such change."""


class Journal(Protocol):
    """What sessions can be rebuilt from.

    One owner writes a session at a time: the one whose lease has the latest epoch. All of one `write` is
    stored, or nothing. A lease that ran out still holds until somebody else claims the session.
    """

    @property
    def is_connected(self) -> bool:
        """Whether the store answered the last call."""

    @property
    def may_evict(self) -> bool:
        """Whether the store, as far as it says, drops sessions when its memory is full."""

    async def start(self) -> None:
        """Look at the store, if it answers. Raises InvalidConfig where it cannot keep sessions."""

    async def create(
        self, new: NewSession, owner: str, lease_s: float, max_open: int | None = None
    ) -> Creation:
        """Create a session and own it; a repeat only tells which session that is, ended or not.

        `max_open`: open sessions that the tenant may have with this one, whoever creates others meanwhile.
        Raises RequestConflict (request id known with other content), SessionTaken (session id taken by
        another request), TooManyOpen, JournalFull, StoreUnavailable.
        """

    async def look(self) -> None:
        """See whether the store is there; to be called several times per lease, since whoever has not looked
        for long may claim only what was released. Raises StoreUnavailable."""

    async def claim(self, session: str, owner: str, lease_s: float) -> Lease:
        """Take a session over as it is stored, with the next epoch; also one that this very owner has.

        Raises NoSuchSession, SessionEnded, LeaseHeld (also where its owner has not yet had a lease's time to
        renew since the store came back), JournalFull, StoreUnavailable.
        """

    async def advance(self, lease: Lease, lease_s: float) -> Lease:
        """The owner's next epoch, to fence its own former streams. Raises LeaseLost, StoreUnavailable."""

    async def renew(self, lease: Lease, lease_s: float) -> None:
        """Keep others from claiming for that long from now on, and its data alive. Raises LeaseLost."""

    def is_leased(self, lease: Lease, seconds: float) -> bool:
        """Whether nobody else can claim for that long, as far as is known here."""

    async def release(self, lease: Lease) -> None:
        """End the lease and let anybody claim at once. Raises LeaseLost."""

    async def find_request(self, tenant: str, request_id: str) -> str | None:
        """The session that a creation under this id made, or was to make, if any. Raises StoreUnavailable."""

    async def write(self, lease: Lease, *changes: Change, is_urgent: bool = True) -> Record:
        """Note these changes, in order, and return the new record. Once stored they renew the lease, for as
        long as it was renewed last; `Ended` ends it.

        `is_urgent` False: does not wait for the store, which gets it a moment later.
        Raises LeaseLost before anything else, then OutOfOrder, RequestConflict, InvalidEntry, JournalFull,
        SessionEnded (a change after `Ended`).
        """

    async def load(self, session: str) -> Record:
        """Everything needed to reopen it. Raises NoSuchSession, StoreUnavailable."""

    async def head(self, session: str) -> Record:
        """Everything but latents and segments. Raises NoSuchSession, StoreUnavailable."""

    async def summary(self, session: str) -> Summary:
        """The session in brief. Raises NoSuchSession, StoreUnavailable."""

    async def list_sessions(self, tenant: str, page_token: str = "", page_size: int = 50) -> Page:
        """A tenant's sessions, newest first, ended ones too for a while.

        None is on two pages, whatever comes or goes meanwhile. Raises InvalidEntry, StoreUnavailable.
        """

    async def num_open(self, tenant: str) -> int:
        """Sessions of the tenant that have neither ended nor expired. Raises StoreUnavailable."""

    async def orphans(self, limit: int) -> list[str]:
        """Up to `limit` sessions that `claim` may give, those without an owner for longest first."""

    def clock(self) -> float:
        """Seconds since 1970, the same at all gateways. Raises StoreUnavailable until the store has told."""

    async def share_running(
        self, mine: Collection[RunningSession], over: Collection[str]
    ) -> list[RunningSession]:
        """Tell the other gateways which sessions run here, and which no longer do; returns all that run,
        wherever. One that no gateway speaks of any more is returned for two more minutes.

        Raises StoreUnavailable.
        """

    def behind(self) -> Behind:
        """How far the store is behind what was written here."""

    async def close(self) -> None:
        """Stop, after a bounded try to store what is missing. Leases are not released."""


def list_key(record: Record) -> str:
    """Where a session stands in its tenant's list, ordered as text, and the page token of those after it."""
    return f"{record.created_ms:015d}/{record.session}"


def fenced(lease: Lease, epoch: int) -> LeaseLost:
    """The error for a lease that is over; `epoch`: the highest one seen."""
    text = f"session {lease.session}: epoch {lease.epoch} of {lease.owner} is over, the latest is {epoch}"
    return LeaseLost(text, epoch=epoch)


def check_page(page_token: str, page_size: int) -> None:
    """Raise InvalidEntry for a token that is not ours or a size outside 1..MAX_PAGE_SIZE."""
    if page_token and not PLACE.fullmatch(page_token):
        raise InvalidEntry(f"page_token: {page_token[:80]!r} is not one of ours")
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidEntry(f"page_size: {page_size} is not in 1..{MAX_PAGE_SIZE}")


def num_fitting(sizes: Iterable[int]) -> int:
    """How many of the first of these fit on a page: one in any case."""
    sums = itertools.accumulate(sizes)
    return sum(1 for place, total in enumerate(sums) if total <= PAGE_BYTES or place == 0)


def check_reserve(held: int, wanted: int, max_total_bytes: int) -> None:
    """Raise JournalFull where the reserves of all sessions would pass the total."""
    if wanted > 0 and held + wanted > max_total_bytes:
        raise JournalFull(
            f"{held} bytes are reserved, {wanted} more would pass max_total_bytes {max_total_bytes}"
        )
