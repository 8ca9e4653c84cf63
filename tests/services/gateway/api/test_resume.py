"""Streams that are cut anywhere: without what the client knows, each segment is there once, in order."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import CONTROLLER, AttachedStream, Tenant, town

NUM_BLOCKS = 24
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), st.integers(1, 5)),
        st.tuples(st.just("ack"), st.integers(0, 5)),
        st.tuples(st.just("cut"), st.integers(0, 3)),
        st.tuples(st.just("half-close"), st.just(0)),
        st.tuples(st.just("die"), st.integers(0, 1)),
    ),
    max_size=20,
)


class Client:
    """A client that keeps what it has received, over all its streams."""

    def __init__(self, tenant: Tenant, name: str) -> None:
        self.tenant = tenant
        self.name = name
        self.stream: AttachedStream
        self.kept: list[int] = []
        """Sequences that were new."""
        self.blocks: list[int] = []
        self.acked = 0
        self.forgotten = 0
        self._seen = 0

    async def attach(self) -> None:
        self._seen = 0
        self.stream = self.tenant.stream(acks=False)
        after = self.forgotten or (self.kept[-1] if self.kept else 0)
        self.forgotten = 0
        await self.stream.attach(name=self.name, role=CONTROLLER, after_sequence=after)
        if self.acked:  # the last ack may have been lost with the stream before
            await self.stream.ack(self.acked)
        attached = self.stream.all("attached")[0]
        assert attached.next_sequence <= max(after, self.acked) + 1

    def take(self) -> None:
        """Drop what is known already."""
        for segment, mark in list(zip(self.stream.segments, self.stream.marks, strict=True))[self._seen :]:
            self._seen += 1
            newest = self.kept[-1] if self.kept else 0
            assert segment.sequence <= newest + 1, "no gap"
            if segment.sequence == newest + 1:
                self.kept.append(segment.sequence)
                self.blocks.append(mark.block)

    async def receive(self, number: int) -> None:
        """As many more, as far as there is credit for them."""
        wanted = min(len(self.kept) + number, self.acked + 4, NUM_BLOCKS)
        if wanted > len(self.kept):
            await self.stream.until(lambda: self.stream.sequences[-1:] >= [wanted] or self.stream.is_over)
        self.take()

    async def ack(self, back: int) -> None:
        """What is kept, but for the last few."""
        sequence = max(0, len(self.kept) - back)
        if sequence and not self.stream.is_over:
            await self.stream.ack(sequence)
            self.acked = max(self.acked, sequence)

    async def cut(self, forget: int) -> None:
        """The connection is lost, and the client is not sure of the last ones it stored."""
        await self.stream.cut()
        self.take()
        self.forgotten = max(self.acked, len(self.kept) - forget)
        await self.attach()

    async def finish(self) -> None:
        while not self.stream.is_over:
            await self.receive(4)
            if self.kept and not self.stream.is_over:
                await self.ack(0)
            if len(self.kept) == NUM_BLOCKS:
                await self.stream.until_over()


@given(steps=STEPS)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_cut_nothing_is_missing(steps: list[tuple[str, int]]) -> None:
    asyncio.run(run(steps))


async def run(steps: list[tuple[str, int]]) -> None:
    stages = [FakeStage() for _ in range(2)]
    decoders = [FakeDecoder() for _ in range(2)]
    async with asyncio.timeout(60), town(stages=stages, decoders=decoders) as place:
        client = Client(place.anybody, await place.anybody.name(num_blocks=NUM_BLOCKS))
        await client.attach()
        is_deaf, deaths = False, 0
        for kind, number in steps:
            if client.stream.is_over:
                break
            if kind == "receive":
                await client.receive(number)
            elif kind == "ack" and not is_deaf:
                await client.ack(number)
            elif kind == "cut":
                await client.cut(number)
                is_deaf = False
            elif kind == "half-close" and not is_deaf:
                await client.stream.call.done_writing()
                is_deaf = True
            elif kind == "die" and deaths < 2:
                deaths += 1
                machine = (stages, decoders)[number][deaths % 2]
                await machine.restart()
        if is_deaf and not client.stream.is_over:
            await client.cut(0)
        await client.finish()
        if not client.stream.all("ended"):
            await client.cut(0)
            await client.stream.until_over()
            client.take()
        assert client.kept == list(range(1, NUM_BLOCKS + 1))
        assert client.blocks == list(range(NUM_BLOCKS))
        assert client.stream.end_reason == "COMPLETE"


@pytest.mark.parametrize("kept", [32, 40])
async def test_all_that_was_not_acked_is_kept(kept: int) -> None:
    async with town(kept_segments=kept) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name, acks=False, max_unacked_segments=32) as stream:
            await stream.until_sequence(32)
            await stream.ack(32)
            await stream.until_sequence(64)
        async with place.anybody.attached(
            name, acks=False, after_sequence=32, max_unacked_segments=1
        ) as stream:
            assert stream.all("attached")[0].next_sequence == 33
            await stream.until_sequence(64)
            assert stream.sequences == list(range(33, 65))
        async with place.anybody.attached(name, acks=False) as stream:
            oldest = stream.all("attached")[0].next_sequence
            assert oldest == 64 - kept + 1, "usually more, and a controller starts at the oldest"
            await stream.until_sequence(64)
            assert stream.sequences == list(range(oldest, 65))
