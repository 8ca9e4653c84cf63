"""Tenants that list much, or read much of what has ended: each waits for itself alone."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from cascade.v1 import session_pb2 as pb
from services.common import turns
from services.gateway.api import listing
from services.gateway.journal import Record
from tests.services.support.gateway_support import WAIT_S, Tenant, Town, fails, town, until


async def listed(tenant: Tenant) -> list[str]:
    return [
        session.name for session in (await tenant.call("ListSessions", pb.ListSessionsRequest())).sessions
    ]


class Held:
    """A journal that answers the lists of one tenant when it may."""

    def __init__(self, place: Town, tenant: str) -> None:
        journal = place.registry.shared.journal
        self._read = journal.list_sessions
        self._tenant = tenant
        self.may_go_on = asyncio.Event()
        self.num_reading = self.most_reading = 0
        journal.list_sessions = self.list_sessions  # type: ignore[method-assign]

    async def list_sessions(self, tenant: str, *asked: Any) -> Any:
        if tenant == self._tenant:
            self.num_reading += 1
            self.most_reading = max(self.most_reading, self.num_reading)
            await self.may_go_on.wait()
            self.num_reading -= 1
        return await self._read(tenant, *asked)


async def test_lists_of_one_tenant_take_turns_and_others_wait_for_none_of_them() -> None:
    async with town(tenants=["acme", "other"]) as place:
        acme, other = place.tenants["acme"], place.tenants["other"]
        name = await other.name()
        held = Held(place, "acme")
        lists = [asyncio.create_task(listed(acme)) for _ in range(listing.MAX_WAITING + 2)]
        (refused,), waiting = await asyncio.wait(lists, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        with fails("RESOURCE_EXHAUSTED OVERLOADED"):
            refused.result()
        assert await listed(other) == [name]
        assert [await other.name() for _ in range(3)], "creations too"
        held.may_go_on.set()
        assert await asyncio.gather(*waiting) == [[]] * len(waiting)
        assert held.most_reading == 1


async def test_a_list_that_waits_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 0.05)
    async with town(tenants=["acme", "other"]) as place:
        acme = place.tenants["acme"]
        held = Held(place, "acme")
        first = asyncio.create_task(listed(acme))
        await until(lambda: held.num_reading)
        with fails("RESOURCE_EXHAUSTED OVERLOADED"):
            await listed(acme)
        held.may_go_on.set()
        await first
        assert await listed(acme) == []


async def test_lists_show_the_first_prompt_alone() -> None:
    async with town() as place:
        name = await place.anybody.name(prompts={0: "a red circle", 7: "a blue square"})
        (shown,) = (await place.anybody.call("ListSessions", pb.ListSessionsRequest())).sessions
        assert dict(shown.spec.prompts) == {0: "a red circle"}
        whole = await place.anybody.get(name)
        assert dict(whole.spec.prompts) == {0: "a red circle", 7: "a blue square"}
        await place.anybody.delete(name)
        (shown,) = (await place.anybody.call("ListSessions", pb.ListSessionsRequest())).sessions
        assert dict(shown.spec.prompts) == {0: "a red circle"}
        assert dict((await place.anybody.get(name)).spec.prompts) == dict(whole.spec.prompts)


async def test_who_reads_many_ended_sessions_waits_for_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with town(tenants=["acme", "other"]) as place:
        acme, other = place.tenants["acme"], place.tenants["other"]
        names = {tenant: await tenant.name(num_blocks=2) for tenant in (acme, other)}
        for tenant, name in names.items():
            async with tenant.attached(name) as stream:
                await stream.until_over()
        journal, may_go_on, most = place.registry.shared.journal, asyncio.Event(), Counter[str]()
        load = journal.load

        async def slowly(session: str) -> Record:
            record = await load(session)
            most[record.tenant] += 1
            if record.tenant == "acme":
                await may_go_on.wait()
            return record

        monkeypatch.setattr(journal, "load", slowly)
        streams = [acme.stream() for _ in range(2 * turns.AT_ONCE)]
        attaching = [asyncio.create_task(stream.attach(name=names[acme])) for stream in streams]
        await until(lambda: most["acme"])
        async with other.attached(names[other]) as stream:
            await stream.until_over()
            assert stream.sequences == [1, 2]
        assert (await other.get(names[other])).end.reason == pb.END_REASON_COMPLETE
        assert most["acme"] == 1
        may_go_on.set()
        await asyncio.gather(*attaching)
        assert most["acme"] == len(streams)
        for each in streams:
            await each.cut()
