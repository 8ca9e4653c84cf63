"""A session's place at a machine that is to be left: the stream there ends, breaks, or does neither."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import pytest

from services.gateway.peers.endpoints import Endpoint
from services.gateway.peers.peer import Peer
from services.gateway.peers.stream import StreamLost
from services.gateway.placement.slots import Slot
from services.gateway.session import keeper as module
from services.gateway.session.keeper import Keeper

WAIT_S = 30.0


class Accounts:
    """Notes what happens to slots."""

    def __init__(self) -> None:
        self.blamed: list[str] = []
        self.released: list[str] = []

    def release(self, slot: Slot[Any]) -> None:
        self.released.append(slot.peer.address)

    def blame(self, slot: Slot[Any]) -> None:
        self.blamed.append(slot.peer.address)

    def __getattr__(self, name: str) -> Callable[[Slot[Any]], None]:
        return lambda slot: None


class FakeStream:
    """Ends as it is told to: `in order`, with StreamLost, or not at all."""

    def __init__(self, end: str) -> None:
        self.is_open = True
        self.on_open: Callable[[], None] = lambda: None
        self.running = asyncio.Event()
        self._end = end
        self._closed = asyncio.Event()

    async def run(self) -> None:
        self.running.set()
        await self._closed.wait()
        if self._end == "lost":
            raise StreamLost("ended its status stream")
        if self._end == "never":
            await asyncio.Event().wait()

    def close(self) -> None:
        self._closed.set()


class Place:
    """A session at machine `a`, which can move to `b`."""

    def __init__(self, end: str) -> None:
        self.accounts = Accounts()
        self.peers = {name: Peer[Any](name, None) for name in "ab"}  # type: ignore[arg-type]
        self.streams = {"a": FakeStream(end), "b": FakeStream("in order")}
        self.losses: list[StreamLost | None] = []
        self.keeper: Keeper[Any] = Keeper(
            self.slot("a"), find=self.find, open_stream=self.open, lost=self.losses.append, progress=lambda: 0
        )

    def slot(self, name: str) -> Slot[Any]:
        return Slot(self.accounts, self.peers[name], "s", 0, 0.0)

    async def find(self, avoid: Collection[str]) -> Slot[Any]:
        assert avoid == {"a"}
        return self.slot("b")

    async def open(self, peer: Peer[Any]) -> FakeStream:
        return self.streams[peer.address]


@pytest.mark.parametrize("end", ["in order", "lost", "never"])
@pytest.mark.parametrize("announcement", ["in-band", "by the cluster"])
async def test_a_move_is_one_however_the_old_stream_ends(
    end: str, announcement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    place = Place(end)
    running = asyncio.create_task(place.keeper.run())
    async with asyncio.timeout(WAIT_S):
        await place.streams["a"].running.wait()
        if announcement == "in-band":
            place.keeper.drain()
        else:
            place.peers["a"].notice(Endpoint("a", is_terminating=True))
        await place.streams["b"].running.wait()
        assert place.losses == [None], "on purpose"
        assert place.accounts.blamed == []
        assert place.accounts.released == ["a"]
        place.streams["b"].close()
        await running
    assert place.accounts.released == ["a", "b"]
