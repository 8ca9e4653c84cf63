"""Pods behind the addresses of a pool: who is the same server, who leaves, who gets no more sessions."""

import asyncio

from cascade_core.config import make
from services.gateway.base.settings import GatewaySettings
from services.gateway.peers.endpoints import Endpoint, Pod
from services.gateway.placement.admission import Admission
from services.gateway.placement.needs import Needs
from tests.services.gateway.peers.test_pool import WAIT_S, following, gone, reported, until
from tests.services.support.fake_peers import (
    FakeEndpoints,
    FakePeer,
    FakePool,
    decoder_status,
    serving,
    stage_status,
)

A, B = Pod("a", "uid-a"), Pod("b", "uid-b")


async def test_another_pod_at_an_address_is_another_server_at_once() -> None:
    fake = FakePeer(stage_status())
    async with serving(fake):
        endpoints = FakeEndpoints()
        endpoints.set(Endpoint(fake.address, A))
        async with following(endpoints) as pool:
            first = await reported(pool, fake)
            endpoints.set(Endpoint(fake.address, B))
            assert "another pod" in await gone(first)
            await until(pool, lambda: pool.peers[fake.address] is not first)
            second = await reported(pool, fake)
            assert (first.pod, second.pod) == (A, B)
            for _ in range(6):  # heartbeats
                await asyncio.wait_for(pool.changed(), WAIT_S)
            assert fake.num_watchers == 1
            assert first.is_gone, "nobody follows it any more, though the address answers"


async def test_a_pod_that_was_off_the_list_is_the_same_and_its_successor_is_not() -> None:
    fake = FakePeer(stage_status())
    async with serving(fake):
        endpoints = FakeEndpoints()
        endpoints.set(Endpoint(fake.address, A))
        async with following(endpoints) as pool:
            first = await reported(pool, fake)
            for pod, is_same in ((A, True), (B, False)):
                endpoints.set()
                await until(pool, lambda: not pool.peers)
                assert not first.is_gone
                endpoints.set(Endpoint(fake.address, pod))
                await until(pool, lambda: bool(pool.peers))
                assert (pool.peers[fake.address] is first) is is_same
            assert first.is_gone


async def test_an_address_whose_pod_is_told_later_is_the_same_server() -> None:
    fake = FakePeer(stage_status())
    async with serving(fake):
        endpoints = FakeEndpoints(fake.address)
        async with following(endpoints) as pool:
            first = await reported(pool, fake)
            endpoints.set(Endpoint(fake.address, A))
            await until(pool, lambda: pool.peers[fake.address].pod == A)
            endpoints.set(fake.address)
            endpoints.set(Endpoint(fake.address, A, is_terminating=True))
            await until(pool, lambda: first.is_terminating)
            assert pool.peers[fake.address] is first
            assert not first.is_gone


async def test_a_server_that_goes_gets_no_sessions_however_ready_it_is() -> None:
    stages, decoders = FakePool(), FakePool()
    admission = Admission(make(GatewaySettings, {}), stages, decoders)  # type: ignore[arg-type]
    decoders.report("d:1", decoder_status())
    stages.report("a:1", stage_status(), A)
    stages.report("b:1", stage_status(num_sessions=1), B)
    stages.terminate("b:1")  # the fullest, which would be first
    needs = Needs("s", "t", "demo")
    claim = admission.enqueue(needs)
    assert (await claim.wait())[0].peer.pod == A
    stages.terminate("a:1")
    assert admission.enqueue(needs).position == 1
    stages.report("c:1", stage_status())
    assert admission.queue_length == 0
    admission.close()
