"""A session's place at a machine that is to be left: the stream there ends, breaks, or does neither."""

import asyncio
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

import pytest

from services.gateway.peers.endpoints import Endpoint
from services.gateway.peers.peer import Peer
from services.gateway.peers.stream import StreamLost
from services.gateway.placement.ledger import Place
from services.gateway.session import keeper as module
from services.gateway.session.keeper import Keeper

WAIT_S = 30.0


class NotedPlace(Place[Any]):
    """Notes what happens to it, and keeps no account."""

    def __init__(self, noted: "World", peer: Peer[Any]) -> None:
        super().__init__(SimpleNamespace(clock=lambda: 0.0), SimpleNamespace(era=0), peer, "s")  # type: ignore[arg-type]
        self._noted = noted

    def praise(self) -> None:
        self.is_open = True

    def release(self) -> None:
        self._noted.released.append(self.peer.address)

    def blame(self) -> None:
        self._noted.blamed.append(self.peer.address)


class FakeStream:
    """Ends as it is told to: `in order`, with StreamLost, or not at all."""

    def __init__(self, end: str) -> None:
        self.is_open = True
        self.on_open: Callable[[], None] = lambda: None
        self.running = asyncio.Event()
        self._end = end
        self.closed = asyncio.Event()

    async def run(self) -> None:
        self.running.set()
        await self.closed.wait()
        if self._end == "lost":
            raise StreamLost("ended its status stream")
        if self._end == "never":
            await asyncio.Event().wait()

    def close(self) -> None:
        self.closed.set()


class World:
    """A session at machine `a`, which can move to `b`."""

    def __init__(self, end: str) -> None:
        self.blamed: list[str] = []
        self.released: list[str] = []
        self.peers = {name: Peer[Any](name, None) for name in "ab"}  # type: ignore[arg-type]
        self.streams = {"a": FakeStream(end), "b": FakeStream("in order")}
        self.losses: list[StreamLost | None] = []
        self.keeper: Keeper[Any] = Keeper(
            self.place("a"),
            find=self.find,
            open_stream=self.open,
            lost=self.losses.append,
            progress=lambda: 0,
            is_complete=lambda: False,
        )
        self.found = asyncio.Event()
        """Another place is free."""
        self.found.set()
        self.num_searches = 0
        self.searching = asyncio.Event()

    def place(self, name: str) -> Place[Any]:
        return NotedPlace(self, self.peers[name])

    async def find(self, avoid: Collection[str]) -> Place[Any]:
        assert avoid in ((), {self.keeper.place.peer.address})
        self.num_searches += 1
        self.searching.set()
        await self.found.wait()
        return self.place("b")

    async def open(self, peer: Peer[Any]) -> FakeStream:
        return self.streams[peer.address]


@pytest.mark.parametrize("end", ["in order", "lost", "never"])
@pytest.mark.parametrize("announcement", ["in-band", "by the cluster"])
async def test_a_move_is_one_however_the_old_stream_ends(
    end: str, announcement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    world = World(end)
    running = asyncio.create_task(world.keeper.run())
    async with asyncio.timeout(WAIT_S):
        await world.streams["a"].running.wait()
        if announcement == "in-band":
            world.keeper.drain()
        else:
            world.peers["a"].notice(Endpoint("a", is_terminating=True))
        await world.streams["b"].running.wait()
        assert world.losses == [None], "on purpose"
        assert world.blamed == []
        assert world.released == ["a"]
        world.streams["b"].close()
        await running
    assert world.released == ["a", "b"]


async def test_the_old_machine_may_be_told_to_go_while_another_is_looked_for() -> None:
    """It was lost already: that it goes is no reason to move once more."""
    world = World("lost")
    world.found.clear()
    running = asyncio.create_task(world.keeper.run())
    async with asyncio.timeout(WAIT_S):
        await world.streams["a"].running.wait()
        world.streams["a"].close()
        await world.searching.wait()
        world.peers["a"].notice(Endpoint("a", is_terminating=True))
        for _ in range(5):
            await asyncio.sleep(0)
        world.found.set()
        await world.streams["b"].running.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert world.num_searches == 1
        assert world.released == ["a"]
        world.keeper.drain()  # the next one counts
        await world.streams["b"].closed.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
