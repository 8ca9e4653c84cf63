"""Real services with the demo model, as a client sees them: first segment, prompt to picture, pictures."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.services_processes import service
from cascade_client import Client, Ended, PromptReceipt, Segment
from demo_world.world import Scene, World

Row = dict[str, Any]
PROMPTS = ("a red circle moves left", "a blue square moves right")
STAGE = {"CASCADE_STAGE_DEVICE": "cpu", "CASCADE_STAGE_THREADS_PER_RANK": "1"}
DECODER = {"CASCADE_DECODER_DEVICE": "cpu", "CASCADE_DECODER_THREADS": "1"}
"""One thread each: threads that wait for each other measure what else the machine does."""
LIMIT_S = 60.0
"""For any step of a measurement."""


@asynccontextmanager
async def services() -> AsyncIterator[str]:
    """The address of a gateway over one stage and one decoder, all warm."""
    async with (
        service("services.stage", STAGE) as stage,
        service("services.decoder", DECODER) as decoder,
    ):
        environment = {
            "CASCADE_GATEWAY_STAGES": stage.address,
            "CASCADE_GATEWAY_DECODERS": decoder.address,
            "CASCADE_DRAIN_DEADLINE_S": "1",
        }
        async with service("services.gateway", environment) as gateway:
            await first_segment_s(gateway.address)  # the first waits for the model and warms caches
            yield gateway.address


async def measure_first_segment(address: str, repeats: int = 10) -> list[Row]:
    """From asking for a session, which is new, to its first segment; nobody else is served."""
    rows: list[Row] = []
    for begins_from, image in (("prompt", None), ("picture", picture())):
        times = sorted([await first_segment_s(address, image) for _ in range(repeats)])
        quantiles = {"p50_ms": 1e3 * quantile(times, 0.5), "p95_ms": 1e3 * quantile(times, 0.95)}
        rows.append({"begins_from": begins_from, "sessions": repeats} | quantiles)
    return rows


def picture() -> NDArray[np.uint8]:
    """Of the demo's world."""
    (found,) = World(seed=0).frames(Scene("red", "circle", "still", "white"), 1)
    return np.asarray(found, np.uint8)


async def first_segment_s(address: str, image: NDArray[np.uint8] | None = None) -> float:
    """From CreateSession on; it has `image` encoded before it answers."""
    async with asyncio.timeout(2 * LIMIT_S), Client(address) as client:
        started = time.monotonic()
        async with client.connect(await client.create(PROMPTS[0], image=image)) as stream:
            async for event in stream:
                if isinstance(event, Segment):
                    took = time.monotonic() - started
                    await stream.end()
                    return took
                assert not isinstance(event, Ended), event
    raise AssertionError("a stream without a segment")


class Viewer:
    """Plays a session in real time, acknowledges what was played, and switches the prompt now and then."""

    def __init__(self, max_unacked: int, num_switches: int) -> None:
        self.received_s: list[float] = []
        """From sending a switch to receiving the first segment that it changes."""
        self.shown_s: list[float] = []
        """To that segment's first picture on the screen."""
        self._max_unacked = max_unacked
        self._num_switches = num_switches
        self._touched: asyncio.Queue[int] = asyncio.Queue(64)
        self._segments: dict[int, tuple[float, float]] = {}
        """Block -> when it was received, when it is shown."""
        self._news = asyncio.Event()

    async def run(self, address: str) -> None:
        async with Client(address) as client:
            session = await client.create(PROMPTS[0])
            async with client.connect(
                session, auto_ack=False, max_unacked_segments=self._max_unacked
            ) as stream:
                tasks = [asyncio.create_task(self._play(stream)), asyncio.create_task(self._switch(stream))]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in tasks:
                        if task.done():
                            task.result()
                    await stream.end()
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    async def _play(self, stream: Any) -> None:
        """Each segment is shown when the one before is over, and acknowledged when it is over itself."""
        loop, free_at = asyncio.get_running_loop(), 0.0
        async for event in stream:
            if isinstance(event, Segment):
                now = time.monotonic()
                shown_at = max(now, free_at)
                free_at = shown_at + event.duration_s
                self._segments[event.block] = now, shown_at
                loop.call_later(free_at - now, stream.ack, event.sequence)
                self._tell()
            elif (
                isinstance(event, PromptReceipt)
                and event.first_block_touched is not None
                and event.request_id
            ):
                self._touched.put_nowait(event.first_block_touched)

    async def _switch(self, stream: Any) -> None:
        await self._block(2 * self._max_unacked)  # playing steadily
        for number in range(self._num_switches):
            sent = time.monotonic()
            await stream.switch(PROMPTS[(number + 1) % 2])
            async with asyncio.timeout(LIMIT_S):
                touched = await self._touched.get()
            received_at, shown_at = await self._block(touched)
            self.received_s.append(received_at - sent)
            self.shown_s.append(shown_at - sent)
            await asyncio.sleep(0.2 + 0.75 * (number * 0.382 % 1))  # another moment of a block each time

    async def _block(self, block: int) -> tuple[float, float]:
        async with asyncio.timeout(LIMIT_S):
            while block not in self._segments:
                self._news.clear()
                await self._news.wait()
        return self._segments[block]

    def _tell(self) -> None:
        self._news.set()


async def measure_switch(address: str, max_unacked: int, num_viewers: int = 2, num_switches: int = 10) -> Row:
    """Prompt to picture, while the viewers play at 16 pictures per second."""
    viewers = [Viewer(max_unacked, num_switches) for _ in range(num_viewers)]
    await asyncio.gather(*(viewer.run(address) for viewer in viewers))
    received = sorted(s for viewer in viewers for s in viewer.received_s)
    shown = sorted(s for viewer in viewers for s in viewer.shown_s)
    return {
        "max_unacked": max_unacked,
        "switches": len(received),
        "received_p50_ms": 1e3 * quantile(received, 0.5),
        "received_p99_ms": 1e3 * quantile(received, 0.99),
        "shown_p50_ms": 1e3 * quantile(shown, 0.5),
        "shown_p99_ms": 1e3 * quantile(shown, 0.99),
    }


async def measure_fps(address: str, counts: Sequence[int] = (1, 2, 4), seconds: float = 12.0) -> list[Row]:
    """Pictures that clients receive when they take all that comes."""
    rows: list[Row] = []
    for count in counts:
        rates = await asyncio.gather(*(fps(address, seconds) for _ in range(count)))
        total = sum(rates)
        first = rows[0]["total_fps"] if rows else total
        rows.append(
            {
                "sessions": count,
                "total_fps": total,
                "fps_per_session": total / count,
                "least_fps": min(rates),
                "of_one_session": total / first,
            }
        )
    return rows


async def fps(address: str, seconds: float, skip: int = 4) -> float:
    """Pictures per second that a client of one session receives, after its first `skip` blocks."""
    async with asyncio.timeout(seconds + LIMIT_S), Client(address) as client:
        session = await client.create(PROMPTS[0])
        async with client.connect(session) as stream:
            started, num_frames = 0.0, 0
            async for event in stream:
                if not isinstance(event, Segment):
                    continue
                now = time.monotonic()
                if event.block == skip:
                    started = now
                elif event.block > skip:
                    num_frames += event.num_frames
                    if now >= started + seconds:
                        await stream.end()
                        return num_frames / (now - started)
    raise AssertionError("an endless session ended")


def quantile(values: Sequence[float], share: float) -> float:
    """Of ascending values; interpolated between two of them."""
    if len(values) == 1:
        return values[0]
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[round(100 * share) - 1]
