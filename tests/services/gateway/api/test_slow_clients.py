"""Clients that stop acknowledging, stop reading, or vanish: they cost nothing, and nobody else notices."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise

import pytest

from cascade.v1 import session_pb2
from cascade_client import Client, Event, PromptReceipt, Reconnected, Segment, Session, Stream
from tests.services.support.playing import PLAY_S
from tests.services.support.redis_support import needs_redis
from tests.services.support.system import POLL_S, ROOT, WAIT_S, System, clean_environment

pytest_plugins = ("tests.services.support.system_fixtures",)
pytestmark = needs_redis
PROMPT = "a red circle moves left on a white background"
SWITCHED = "a blue square moves left on a white background"
MAX_UNACKED = 4
"""The gateway's default."""
NUM_PASSES = 5
"""Blocks in flight, at most."""
LAST_ACK = 3
SOME_BLOCKS = 15
"""Far more than the others' credit."""
FLAT_BLOCKS = 500
"""Memory is watched while so many are made."""
WARM_BLOCKS = 150
"""By then windows are full and most allocators have what they need; how much the last of them take, and
when, varies: NUM_TRIES."""
MAX_GROWTH_MIB = {"gateway": 6.0, "stage": 6.0, "decoder": 24.0}
"""Over FLAT_BLOCKS: kept latents (14 kB a block) and segments (5 kB) would be 9 MiB, kept pictures (330 kB)
160 MiB. A decoder's allocator breathes by a few."""
NUM_TRIES = 4
"""What leaks grows every time, and what is slowed down always is."""
WINDOW_BLOCKS = 20
"""A rate is measured over so many blocks."""
NUM_WINDOWS = 3
MIN_RATE = 0.6
"""Of what the same session does alone: two cores are shared with whatever else runs there."""


class Runner:
    """A session that is recorded as fast as it is made, and how fast that is."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self._came = asyncio.Condition()

    async def run(self, client: Client, session: Session) -> None:
        async with client.connect(session) as stream:
            async for event in stream:
                if isinstance(event, Segment):
                    self.times_s.append(time.monotonic())
                    async with self._came:
                        self._came.notify_all()

    async def made(self, num_blocks: int) -> None:
        """Until it has so many."""
        async with asyncio.timeout(2 * PLAY_S), self._came:
            await self._came.wait_for(lambda: len(self.times_s) >= num_blocks)

    async def best_rate(self) -> float:
        """Blocks per second in the best of the next windows: what others on the machine take is no matter."""
        first = len(self.times_s)
        last = first + NUM_WINDOWS * WINDOW_BLOCKS
        await self.made(last + 1)
        ends = self.times_s[first : last + 1 : WINDOW_BLOCKS]
        return max(WINDOW_BLOCKS / (end - start) for start, end in pairwise(ends))


@asynccontextmanager
async def running(client: Client) -> AsyncIterator[Runner]:
    """An endless session, for as long as the block lasts."""
    session, runner = await client.create(PROMPT, seed=1), Runner()
    task = asyncio.create_task(runner.run(client, session))
    try:
        yield runner
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.delete(session)


class ClientProcess:
    """See client_process.py."""

    def __init__(self, target: str, token: str) -> None:
        command = [sys.executable, "-m", "tests.services.support.client_process", target, token]
        self.process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE)

    async def received(self, sequence: int) -> None:
        """Until it tells of that segment."""
        assert self.process.stdout
        async with asyncio.timeout(WAIT_S):
            while int(await asyncio.to_thread(self.process.stdout.readline)) < sequence:
                pass


@contextmanager
def client_process(system: System, session: Session) -> Iterator[ClientProcess]:
    client = ClientProcess(system.target, session.resume_token)
    try:
        yield client
    finally:
        client.process.kill()
        client.process.communicate(timeout=WAIT_S)


async def take(stream: Stream, sequence: int) -> list[Event]:
    """Read up to that segment, and no further."""
    events = []
    async with asyncio.timeout(PLAY_S):
        async for event in stream:
            events.append(event)
            if isinstance(event, Segment) and event.sequence == sequence:
                return events
    raise AssertionError(f"the stream ended before segment {sequence}")


async def play(stream: Stream, sequence: int) -> None:
    """Read and acknowledge up to that segment."""
    while stream.last_sequence < sequence:
        stream.ack(stream.last_sequence)
        await take(stream, stream.last_sequence + 1)


async def until(
    client: Client, session: Session, condition: Callable[[session_pb2.Session], bool]
) -> session_pb2.Session:
    """The session, once it is so."""
    async with asyncio.timeout(WAIT_S):
        while True:
            now = (await client.get(session)).message
            if condition(now):
                return now
            await asyncio.sleep(POLL_S)


def has_no_controller(now: session_pb2.Session) -> bool:
    return not now.has_controller


def stands_still(now: session_pb2.Session) -> bool:
    """Its credit is used up."""
    return now.last_sequence == now.acked_sequence + MAX_UNACKED


@asynccontextmanager
async def hanging(system: System, client: Client) -> AsyncIterator[None]:
    """One that does not acknowledge, one that is stopped, one that is killed: their sessions stand still
    for as long as the block lasts. The first goes on after it."""
    silent, frozen, dead = [await client.create(PROMPT, seed=seed, idle_timeout_s=900) for seed in (2, 3, 4)]
    async with client.connect(silent, auto_ack=False) as stream:
        with client_process(system, frozen) as freezes, client_process(system, dead) as dies:
            await take(stream, LAST_ACK)
            stream.ack(LAST_ACK)
            await take(stream, LAST_ACK + MAX_UNACKED)
            await freezes.received(LAST_ACK)
            freezes.process.send_signal(signal.SIGSTOP)
            await dies.received(LAST_ACK)
            dies.process.kill()
            await until(client, dead, has_no_controller)
            stands = [await until(client, session, stands_still) for session in (silent, frozen)]
            assert stands[0].last_sequence == LAST_ACK + MAX_UNACKED
            yield
            for session, then in zip((silent, frozen), stands, strict=True):
                now = (await client.get(session)).message
                assert (now.last_sequence, now.acked_sequence) == (then.last_sequence, then.acked_sequence)
            stream.ack(stands[0].last_sequence)
            goes_on = await take(stream, stands[0].last_sequence + MAX_UNACKED)
            assert not any(isinstance(event, Reconnected) for event in goes_on), "its stream was lost"
            await until(client, frozen, has_no_controller)  # it does not answer keepalive pings
    for session in (silent, frozen, dead):
        await client.delete(session)


async def test_clients_that_hang_stand_still_and_others_go_on(system: System) -> None:
    async with Client(system.target) as client:
        session = await client.create(PROMPT, seed=1, idle_timeout_s=900)
        async with client.connect(session, auto_ack=False) as stream:
            await take(stream, MAX_UNACKED)
            async with hanging(system, client):
                await play(stream, SOME_BLOCKS)
        await client.delete(session)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_clients_that_hang_cost_nothing(system: System) -> None:
    async with Client(system.target) as client, running(client) as runner:
        alone = await runner.best_rate()
        async with hanging(system, client):
            await runner.made(WARM_BLOCKS)
            for _ in range(NUM_TRIES):
                before, num_blocks = rss_mib(system), len(runner.times_s)
                beside = await runner.best_rate()
                await runner.made(num_blocks + FLAT_BLOCKS)
                growth = {name: size - before[name] for name, size in rss_mib(system).items()}
                print(f"\nalone {alone:.1f} blocks/s, beside them {beside:.1f}; growth in MiB:")
                print({name: round(size, 1) for name, size in growth.items()})
                if beside > MIN_RATE * alone and is_flat(growth):
                    break
            else:
                pytest.fail("memory grew, or the running session was slowed down, every time")


def is_flat(growth: dict[str, float]) -> bool:
    return all(size < MAX_GROWTH_MIB[name.partition("-")[0]] for name, size in growth.items())


def rss_mib(system: System) -> dict[str, float]:
    return {program.log.stem: program.rss_bytes() / 2**20 for program in system.programs}


async def test_a_session_that_nobody_controls_ends(system: System) -> None:
    async with Client(system.target) as client:
        session = await client.create(PROMPT, idle_timeout_s=5)  # time for a process to start
        with client_process(system, session) as dies:
            await dies.received(LAST_ACK)
            dies.process.kill()
            over = await until(client, session, lambda now: now.state == session_pb2.SESSION_STATE_ENDED)
        assert over.end.reason == session_pb2.END_REASON_IDLE
    peers = (*system.stages, *system.decoders)
    system.wait("its places are free", lambda: not any(peer.status().num_sessions for peer in peers))


@pytest.mark.parametrize("max_unacked", [1, 8])
async def test_a_switch_is_no_further_from_the_screen_than_the_credit(
    system: System, max_unacked: int
) -> None:
    """Sent while the session stands still at its bound, where most is made and not yet played."""
    async with Client(system.target) as client:
        session = await client.create(PROMPT, seed=5, num_blocks=30)
        async with client.connect(session, auto_ack=False, max_unacked_segments=max_unacked) as stream:
            await take(stream, 1)
            stream.ack(1)
            await take(stream, 1 + max_unacked)
            last_block = max_unacked
            receipt = await stream.switch(SWITCHED)
            assert receipt.state == "ACCEPTED"
            applied = await play_until_applied(stream)
        await client.delete(session)
    assert applied.first_block_touched is not None
    assert last_block < applied.first_block_touched <= last_block + max_unacked + NUM_PASSES


async def play_until_applied(stream: Stream) -> PromptReceipt:
    """Acknowledge everything that comes until the switch has taken effect."""
    stream.ack(stream.last_sequence)
    async with asyncio.timeout(PLAY_S):
        async for event in stream:
            if isinstance(event, Segment):
                stream.ack(event.sequence)
            if isinstance(event, PromptReceipt) and event.state == "APPLIED" and event.request_id:
                return event
    raise AssertionError("the session ended before the switch took effect")
