"""The pool follows real servers: what they report, and each way of losing them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cascade_core.config import make
from services.common.settings import TlsSettings
from services.common.tls import server_credentials
from services.gateway.base.settings import GatewaySettings, PeerSettings
from services.gateway.peers.endpoints import Endpoints, StaticEndpoints
from services.gateway.peers.pool import Peer, Pool
from tests.services.support.certificates import Authority
from tests.services.support.fake_peers import (
    DRAINING,
    FakeEndpoints,
    FakePeer,
    decoder_status,
    serving,
    stage_status,
)

INTERVAL_S = 0.2
WAIT_S = 20.0


@asynccontextmanager
async def following(endpoints: Endpoints, kind: Any = "stage", **peer: Any) -> AsyncIterator[Pool[Any]]:
    pool: Pool[Any] = Pool(
        kind,
        endpoints,
        make(GatewaySettings, {"status_interval_s": INTERVAL_S}),
        make(PeerSettings, peer),
    )
    await pool.start()
    try:
        yield pool
    finally:
        await asyncio.wait_for(pool.close(), WAIT_S)


async def until(pool: Pool[Any], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await pool.changed()


async def reported(pool: Pool[Any], fake: FakePeer) -> Peer[Any]:
    await until(pool, lambda: fake.address in pool.peers and not pool.peers[fake.address].is_gone)
    return pool.peers[fake.address]


async def gone(peer: Peer[Any]) -> str:
    return await asyncio.wait_for(peer.wait_gone(), WAIT_S)


async def test_reports_of_several_stages_arrive_as_they_change() -> None:
    one, two = FakePeer(stage_status()), FakePeer(stage_status(max_sessions=2))
    async with serving(one, two), following(StaticEndpoints([one.address, two.address])) as pool:
        first, second = await reported(pool, one), await reported(pool, two)
        assert (first.status.max_sessions, second.status.max_sessions) == (4, 2)
        one.set(num_sessions=3)
        await until(pool, lambda: first.status.num_sessions == 3)
        one.set(state=DRAINING)
        await until(pool, lambda: first.status.state == DRAINING)
        assert second.status.num_sessions == 0


async def test_decoders_are_followed_alike() -> None:
    fake = FakePeer(decoder_status(warmup_blocks=5))
    async with serving(fake), following(StaticEndpoints([fake.address]), "decoder") as pool:
        assert (await reported(pool, fake)).status.warmup_blocks == 5


async def test_a_peer_that_keeps_reporting_is_not_gone() -> None:
    fake = FakePeer(stage_status())
    async with serving(fake), following(StaticEndpoints([fake.address])) as pool:
        waiting = asyncio.ensure_future((await reported(pool, fake)).wait_gone())
        for _ in range(12):  # heartbeats, over four times the patience
            await asyncio.wait_for(pool.changed(), WAIT_S)
        assert not waiting.done()
        assert fake.num_calls == 1
        waiting.cancel()


async def test_a_dead_peer_is_gone_and_comes_back_as_another() -> None:
    fake = FakePeer(stage_status())
    async with serving(fake), following(StaticEndpoints([fake.address])) as pool:
        peer = await reported(pool, fake)
        waiting = asyncio.ensure_future(peer.wait_gone())
        await fake.kill()
        assert fake.address in await asyncio.wait_for(waiting, WAIT_S)
        await until(pool, lambda: peer.is_gone)
        assert await gone(peer), "at once, of one that is gone"
        fake.status.server.instance_id = "two"
        await fake.start()
        await until(pool, lambda: peer.instance_id == "two")
        assert pool.peers[fake.address] is peer


async def test_a_silent_peer_is_gone_until_it_speaks() -> None:
    fake = FakePeer(stage_status())
    async with serving(fake), following(StaticEndpoints([fake.address])) as pool:
        peer = await reported(pool, fake)
        fake.silence(True)
        assert "silent for 0.6 s" in await gone(peer)
        fake.silence(False)
        await reported(pool, fake)
        assert peer.instance_id == "one"


async def test_a_pause_of_this_process_makes_nobody_gone() -> None:
    fake = FakePeer(stage_status())
    async with serving(fake), following(StaticEndpoints([fake.address])) as pool:
        waiting = asyncio.ensure_future((await reported(pool, fake)).wait_gone())
        time.sleep(5 * INTERVAL_S)  # noqa: ASYNC251  the pause itself
        for _ in range(3):
            await asyncio.wait_for(pool.changed(), WAIT_S)
        assert not waiting.done()
        waiting.cancel()


async def test_another_instance_means_that_the_one_before_is_gone() -> None:
    fake = FakePeer(stage_status())
    async with serving(fake), following(StaticEndpoints([fake.address])) as pool:
        peer = await reported(pool, fake)
        waiting = asyncio.ensure_future(peer.wait_gone())
        await asyncio.sleep(0)
        fake.become("two")
        assert "started again" in await asyncio.wait_for(waiting, WAIT_S)
        assert not peer.is_gone
        assert peer.instance_id == "two"


async def test_a_short_loss_of_the_same_instance_is_not_missed() -> None:
    peer: Peer[Any] = Peer("a:1", None)  # type: ignore[arg-type]
    peer.report(stage_status())
    waiting = asyncio.ensure_future(peer.wait_gone())
    await asyncio.sleep(0)
    peer.lose("hung up")
    peer.report(stage_status())
    assert await asyncio.wait_for(waiting, WAIT_S) == "a:1: hung up"


async def test_a_peer_that_refuses_us_is_gone_and_says_why() -> None:
    fake = FakePeer(stage_status(), key="sesame")
    async with serving(fake), following(StaticEndpoints([fake.address])) as pool:
        await until(pool, lambda: fake.address in pool.peers)
        async with asyncio.timeout(WAIT_S):
            while "UNAUTHENTICATED: who are you?" not in await gone(  # noqa: ASYNC110
                pool.peers[fake.address]
            ):
                await asyncio.sleep(0.01)


async def test_the_right_key_opens(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sesame\n")
    fake = FakePeer(stage_status(), key="sesame")
    async with serving(fake), following(StaticEndpoints([fake.address]), api_key_file=key) as pool:
        await reported(pool, fake)


async def test_addresses_come_and_go() -> None:
    one, two = FakePeer(stage_status()), FakePeer(stage_status())
    async with serving(one, two):
        endpoints = FakeEndpoints(one.address)
        async with following(endpoints) as pool:
            first = await reported(pool, one)
            endpoints.fail()
            endpoints.set(one.address, two.address)
            second = await reported(pool, two)
            endpoints.set(two.address)
            await until(pool, lambda: set(pool.peers) == {two.address})
            assert not first.is_gone, "its sessions go on there until it ends"
            endpoints.set(one.address, two.address)
            await until(pool, lambda: pool.peers.get(one.address) is first)
            endpoints.set(two.address)
            await until(pool, lambda: one.address not in pool.peers)
            await one.kill()
            await gone(first)
            await one.start()
            endpoints.set(one.address, two.address)
            again = await reported(pool, one)
            assert again is not first
            assert pool.peers[two.address] is second


async def test_a_peer_delisted_while_gone_is_left_alone() -> None:
    fake = FakePeer(stage_status())
    async with serving(fake):
        endpoints = FakeEndpoints(fake.address)
        async with following(endpoints) as pool:
            peer = await reported(pool, fake)
            await fake.kill()
            await gone(peer)
            endpoints.set()
            await until(pool, lambda: not pool.peers)
            before = fake.num_calls
            await fake.start()
            endpoints.set(fake.address)
            assert await reported(pool, fake) is not peer
            assert fake.num_calls == before + 1


async def test_close_leaves_nothing_behind() -> None:
    fake = FakePeer(stage_status())
    async with serving(fake):
        before = asyncio.all_tasks()
        async with following(StaticEndpoints([fake.address])) as pool:
            peer = await reported(pool, fake)
            waiting = asyncio.ensure_future(peer.wait_gone())
            await asyncio.sleep(0)
        assert "not followed" in await asyncio.wait_for(waiting, WAIT_S)
        async with asyncio.timeout(WAIT_S):
            while fake.num_watchers:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        left = {task for task in asyncio.all_tasks() - before if "watch" in task.get_name()}
        assert not left


async def test_certificates_that_changed_hold_for_the_next_connection(tmp_path: Path) -> None:
    """cert-manager renews them long before a gateway is started again."""
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    server = make(TlsSettings, {**named(authority.issue("server")), "ca": authority.path})
    own = named(stranger.issue("gateway"))
    files = server_credentials(server)
    assert files
    fake = FakePeer(stage_status(), credentials=files.get())
    async with (
        serving(fake),
        following(StaticEndpoints([fake.address]), tls=True, ca=authority.path, **own) as pool,
    ):
        await until(pool, lambda: fake.address in pool.peers)
        while "UNAVAILABLE" not in await gone(pool.peers[fake.address]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for name, path in named(authority.issue("gateway")).items():
            path.replace(own[name])
        await reported(pool, fake)


def named(files: tuple[Path, Path]) -> dict[str, Path]:
    return dict(zip(("certificate", "key"), files, strict=True))
