"""The sessions of this gateway, and where the others are."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from services.common.errors import Draining, NotReady, SessionNotFound
from services.common.race import may_fail
from services.gateway.journal import Lease, Noted, Record
from services.gateway.journal.errors import (
    JournalError,
    LeaseHeld,
    LeaseLost,
    NoSuchSession,
    SessionEnded,
    StoreUnavailable,
)
from services.gateway.placement.running import TELL_AGAIN_S
from services.gateway.session import views
from services.gateway.session.attachment import Response
from services.gateway.session.conductor import Conductor
from services.gateway.session.live import LiveSession
from services.gateway.session.over import failed
from services.gateway.session.shared import Shared

log = structlog.get_logger(__name__)
MOVES = "the session moves to another gateway; attach again"
NUM_ORPHANS = 32
"""Sessions taken over at a time."""
SHARE_S = 0.5
"""The longest time between two looks for something to tell of what runs."""
MIN_REST_S = 0.01
END_S = 5.0
"""For a session's end to be journalled."""


@dataclass(frozen=True)
class Elsewhere:
    """Another gateway has the session."""

    address: str


class Registry:
    """Starts, finds, takes over and gives away sessions."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._conductors: dict[str, Conductor] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._chores: list[asyncio.Task[None]] = []
        self._takeovers: dict[str, asyncio.Task[LiveSession]] = {}
        self.is_leaving = False

    def start(self) -> None:
        """Renew leases and take over orphans from now on."""
        lease_s = self.shared.settings.gateway.lease_s
        chores = (
            self._every(lease_s / 8, self._look),
            self._every(min(lease_s / 8, SHARE_S), self._share, self.shared.admission.running.news),
            self._every(lease_s / 8, self._renew),
            self._every(lease_s / 2, self._adopt),
        )
        self._chores = [asyncio.create_task(chore) for chore in chores]
        self.shared.admission.running.begin()

    async def close(self) -> None:
        """Stop all that runs; another gateway goes on with what Redis has of it."""
        tasks: list[asyncio.Task[Any]] = [*self._chores, *self._takeovers.values(), *self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def conductors(self) -> list[Conductor]:
        """Of the sessions that this gateway owns."""
        return list(self._conductors.values())

    @property
    def sessions(self) -> list[LiveSession]:
        """Those that this gateway owns."""
        return [conductor.live for conductor in self._conductors.values()]

    def find(self, session: str) -> LiveSession | None:
        """A session that this gateway owns."""
        conductor = self._conductors.get(session)
        return conductor.live if conductor else None

    def run(self, record: Record, lease: Lease, *, is_taken_over: bool = False) -> LiveSession:
        """Own a session from here on, unless it was taken over here meanwhile."""
        session = record.session
        if known := self.find(session):
            return known
        conductor = Conductor(self.shared, record, lease, is_taken_over=is_taken_over)
        self._conductors[session] = conductor
        self._runs[session] = asyncio.create_task(self._run(conductor), name=f"session {session}")
        return conductor.live

    async def begin(self, lease: Lease) -> None:
        """Own a session that was just created. Where this gateway began to leave meanwhile, another may have
        it. Raises NotReady where there is no other."""
        record = await self.shared.journal.load(lease.session)
        if not self.is_leaving:
            self.run(record, lease)
        elif self.shared.settings.gateway.redis_url:
            await self.shared.journal.release(lease)
        else:
            raise NotReady(MOVES)

    async def locate(self, session: str, tenant: str) -> LiveSession | Record | Elsewhere:
        """The session here, its record in brief where it has ended, or who has it; claimed where nobody
        does.

        Raises SessionNotFound.
        """
        if live := self.find(session):
            check_tenant(live.record, tenant)
            return live
        try:
            summary = await self.shared.journal.summary(session)
        except NoSuchSession:
            raise SessionNotFound(f"no session {session}") from None
        check_tenant(summary.record, tenant)
        if summary.record.end:
            return summary.record
        if not summary.lease_left_s or session in self._takeovers:
            with suppress(LeaseHeld, SessionEnded):
                return await self._take_over(session)
        if summary.owner == self.shared.owner:
            raise NotReady(f"session {session} is just coming to this gateway, or leaving it")
        return Elsewhere(summary.owner.split("/")[0])

    async def ended(self, live: LiveSession) -> None:
        """Until its end is journalled. Raises NotReady if that takes long."""
        run = self._runs.get(live.record.session)
        if run:
            await asyncio.wait({run}, timeout=END_S)
            if not run.done():
                raise NotReady("the session is ending")

    async def drain(self, deadline_s: float) -> None:
        """Give all sessions to other gateways; without a journal that they share, let the sessions end."""
        self.is_leaving = True
        if self.shared.settings.gateway.redis_url:
            await asyncio.gather(*map(self._give_away, list(self._conductors)))
            return
        runs = list(self._runs.values())
        if runs and deadline_s > END_S:
            await asyncio.wait(runs, timeout=deadline_s - END_S)
        for live in self.sessions:
            live.end(failed(NotReady("the gateway stopped, and its journal with it")))
        if runs := list(self._runs.values()):
            await asyncio.wait(runs, timeout=END_S)

    async def _give_away(self, session: str) -> None:
        """Streams closed, everything journalled, lease released: then clients are told to attach again."""
        live, run = self.find(session), self._runs.get(session)
        if live is None or run is None:
            return  # it has ended meanwhile
        try:
            await live.write(Noted(views.MOVED, b"1"))
            run.cancel()
            await asyncio.wait({run}, timeout=END_S)
            await live.release()
        except JournalError as error:  # it has ended, or another has it
            log.info("not given away", session=session, reason=str(error))
        live.publish(Response(reconnect=Response.Reconnect()))
        live.close(Draining(MOVES), at_once=False)

    async def _run(self, conductor: Conductor) -> None:
        """Its clients' streams end with it; where it is cancelled, whoever does that ends them."""
        live, session = conductor.live, conductor.live.record.session
        try:
            await conductor.run()
            live.close(None)
        except (LeaseLost, NoSuchSession) as lost:
            log.warning("session left", session=session, reason=str(lost))
            live.close(NotReady(MOVES))
        except Exception:
            live.close(NotReady(MOVES))
            log.exception("a session's conductor failed", session=session)
        finally:
            if self._conductors.get(session) is conductor:
                del self._conductors[session], self._runs[session]
            self.shared.metrics.forget(session)

    async def _take_over(self, session: str) -> LiveSession:
        """One takeover for all who ask at the same time, whoever of them keeps waiting."""
        if self.is_leaving:
            raise NotReady(MOVES)
        if live := self.find(session):
            return live
        takeover = self._takeovers.get(session)
        if takeover is None:
            takeover = self._takeovers[session] = asyncio.create_task(self._claim(session))
            takeover.add_done_callback(lambda _: self._takeovers.pop(session))
            may_fail(takeover)
        return await asyncio.shield(takeover)

    async def _claim(self, session: str) -> LiveSession:
        journal, settings = self.shared.journal, self.shared.settings.gateway
        lease = await journal.claim(session, self.shared.owner, settings.lease_s)
        record = await journal.load(session)
        if self.is_leaving:  # since the claim: whoever asks next has it
            await journal.release(lease)
            raise NotReady(MOVES)
        log.info("session taken over", session=session, epoch=lease.epoch)
        live = self.run(record, lease, is_taken_over=True)
        if views.MOVED in record.notes:
            await live.write(Noted(views.MOVED, b""))
        return live

    async def _renew(self) -> None:
        """Renew what no write has renewed lately, one after the other, so that no segment waits for all of
        them."""
        lease_s, journal = self.shared.settings.gateway.lease_s, self.shared.journal
        sessions = [live for live in self.sessions if not journal.is_leased(live.lease, lease_s * 3 / 4)]
        spread_s = lease_s / 16

        async def renew(place: int, live: LiveSession) -> None:
            await asyncio.sleep(spread_s * place / len(sessions))
            if self.find(live.record.session) is not live:
                return
            with suppress(StoreUnavailable):
                try:
                    await live.renew()
                except (LeaseLost, NoSuchSession) as lost:
                    log.warning("session lost", session=live.record.session, reason=str(lost))
                    if run := self._runs.get(live.record.session):
                        run.cancel()
                    live.close(NotReady(MOVES))

        await asyncio.gather(*(renew(*item) for item in enumerate(sessions)))

    async def _adopt(self) -> None:
        if self.is_leaving:
            return
        for session in await self.shared.journal.orphans(NUM_ORPHANS):
            if session not in self._conductors:
                with suppress(JournalError):
                    await self._take_over(session)

    async def _look(self) -> None:
        with suppress(StoreUnavailable):  # whoever needs the journal says so
            await self.shared.journal.look()

    async def _share(self) -> None:
        with suppress(StoreUnavailable):
            lease_s = self.shared.settings.gateway.lease_s
            every_s = min(lease_s / 2, TELL_AGAIN_S)
            await self.shared.admission.running.share(self.shared.journal, every_s)

    async def _every(
        self,
        seconds: float,
        chore: Callable[[], Coroutine[Any, Any, None]],
        sooner: asyncio.Event | None = None,
    ) -> None:
        """`sooner`: the chore has something to do at once; it clears that itself."""
        sooner = sooner or asyncio.Event()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await sooner.wait()
                    await asyncio.sleep(min(seconds, MIN_REST_S))  # others run, too
            try:
                await chore()
            except JournalError as error:
                log.warning("the journal does not answer", reason=str(error))
            except Exception:
                log.exception("a chore of the registry failed")


def check_tenant(record: Record, tenant: str) -> None:
    """Raise SessionNotFound for a session of another tenant, as if there were none."""
    if record.tenant != tenant:
        raise SessionNotFound(f"no session {record.session}")


def session_id(name: str) -> str:
    """`sessions/ID` -> `ID`."""
    return name.removeprefix("sessions/")
