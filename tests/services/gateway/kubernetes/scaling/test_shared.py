"""Several gateways on a real Redis give one number; without it, each goes on with what it knows."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cascade_core.config import make
from services.gateway.base.settings import GatewaySettings, ScalerSettings
from services.gateway.journal import connect
from services.gateway.journal.errors import StoreUnavailable
from services.gateway.kubernetes.scaling.component import Component, Sizes
from services.gateway.kubernetes.scaling.pods import Pods
from services.gateway.kubernetes.scaling.scaler import Scaler
from services.gateway.kubernetes.scaling.shared import BUCKET_MS, WISHES_KEPT_MS, Counts, Said, SharedDemand
from services.gateway.placement.admission import Admission
from services.gateway.placement.needs import Needs
from tests.services.gateway.kubernetes.scaling.test_pods import ListedPool
from tests.services.support.fake_peers import decoder_status, stage_status
from tests.services.support.redis_support import RedisServer, needs_redis

pytestmark = needs_redis
WINDOW_S, TTL_S, KEPT_S = 300.0, 3.0, 60.0
CROWD_FACTOR = 2.0
QUARTER_S = 900.0
SLACK_S = BUCKET_MS / 1000


class Clock:
    """Injected time; Redis's script is given it, too."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Gateway:
    """A scaler on pools that only report; the stages offer two places each."""

    def __init__(self, redis: RedisServer, clock: Clock, name: str) -> None:
        self.stages, self.decoders = ListedPool("stage"), ListedPool("decoder")
        pools: Any = (self.stages, self.decoders)
        self.admission = Admission(make(GatewaySettings, {}), *pools, clock)
        section = make(ScalerSettings, {"others_kept_s": KEPT_S, "settle_s": 30.0})
        components = [
            Component(
                pool.kind,
                Pods(pool, self.admission.ledger(pool.kind), 60.0, clock),
                Sizes(0, 2, CROWD_FACTOR),
                WINDOW_S,
                0.0,
                clock,
            )
            for pool in pools
        ]
        shared = SharedDemand(connect(redis.url), "test", name, window_s=WINDOW_S, ttl_s=TTL_S, clock=clock)
        self.scaler = Scaler(section, self.admission, components, shared, clock)
        self._claims: list[Any] = []

    def queue(self, number: int) -> None:
        """So many sessions wait here from now on."""
        while len(self._claims) > number:
            self._claims.pop().cancel()
        while len(self._claims) < number:
            wish = Needs(session=f"{id(self)}-{len(self._claims)}", tenant="t", model="other")
            self._claims.append(self.admission.enqueue(wish))

    @property
    def desired(self) -> int | None:
        return self.scaler.desired("stage")

    async def step(self) -> int | None:
        await self.scaler.step()
        return self.desired

    async def close(self) -> None:
        self.queue(0)
        self.admission.close()
        await self.scaler.close()


class Site:
    """Gateways that see the same stages."""

    size = 2
    """Places of each."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self.clock = Clock()
        self.gateways: list[Gateway] = []
        self.sessions: list[int] = []
        """Of each stage."""

    def add(self) -> Gateway:
        gateway = Gateway(self.redis, self.clock, f"g{len(self.gateways)}")
        self.gateways.append(gateway)
        self.report()
        return gateway

    def serve(self, *sessions: int) -> None:
        """One stage for each number."""
        self.sessions = list(sessions)
        self.report()

    def report(self) -> None:
        for gateway in self.gateways:
            for address in set(gateway.stages.peers) - {f"s{n}" for n in range(len(self.sessions))}:
                gateway.stages.drop(address)
            for number, held in enumerate(self.sessions):
                status = stage_status(max_sessions=self.size, num_sessions=held)
                gateway.stages.report(f"s{number}", status)
            gateway.decoders.report("d0", decoder_status())

    async def turn(self, seconds: float = 1.0) -> list[int | None]:
        """Each makes its number, after that long."""
        self.clock.now += seconds
        return [await gateway.step() for gateway in self.gateways]

    @property
    def num_busy(self) -> int:
        return sum(held > 0 for held in self.sessions)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer(persistent=False)
    yield server
    server.close()


@pytest.fixture
async def site(server: RedisServer) -> AsyncIterator[Site]:
    server.command("FLUSHALL")
    async with opened(server) as site:
        yield site


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[Site]:
    site = Site(server)
    try:
        yield site
    finally:
        for gateway in site.gateways:
            await gateway.close()


async def test_a_queue_at_one_gateway_is_a_queue_at_all(site: Site) -> None:
    first, second, third = site.add(), site.add(), site.add()
    site.serve(2, 2)
    assert await site.turn() == [2, 2, 2]
    first.queue(3)
    second.queue(2)
    await site.turn()
    assert await site.turn() == [5, 5, 5], "five sessions on three pods beside the two"
    assert [one.scaler.waiting.num_queued for one in (first, second, third)] == [5, 5, 5]


@pytest.mark.parametrize("seed", range(6))
async def test_all_give_one_number_whatever_happens(site: Site, seed: int) -> None:
    """Once each has told the others what it made of what they told; and never one below busy."""
    dice = random.Random(seed)
    site.add()
    for _ in range(60):
        if len(site.gateways) < 4 and dice.random() < 0.1:
            site.add()
        if len(site.gateways) > 1 and dice.random() < 0.05:
            await site.gateways.pop(dice.randrange(len(site.gateways))).close()
        if dice.random() < 0.5:
            dice.choice(site.gateways).queue(dice.randrange(12))
        if dice.random() < 0.5:
            site.serve(*(dice.randrange(3) for _ in range(dice.randrange(8))))
        answers = await site.turn(dice.choice([0.5, 1.0, 2.0]))
        assert all(answer is None or answer >= site.num_busy for answer in answers)
        for _ in range(2):
            await site.turn(0.0)
        assert len(set(await site.turn(0.0))) == 1
        site.clock.now += dice.choice([0.0, 0.0, 0.0, 20.0, 200.0])


async def test_all_come_down_together(site: Site) -> None:
    first, second = site.add(), site.add()
    first.queue(9)
    await site.turn()
    first.queue(0)
    seen = [await site.turn(5.0) for _ in range(70)]
    assert all(one == other for one, other in seen[1:])
    assert sorted({one for one, _ in seen[1:]}) == [0, 5]
    down_s = 5.0 * next(index for index, answer in enumerate(seen, 1) if answer == [0, 0])
    assert WINDOW_S <= down_s <= WINDOW_S + SLACK_S + 2 * 5.0
    assert second.desired == 0


async def test_a_gateway_that_dies_leaves_no_queue_behind(site: Site) -> None:
    first, second = site.add(), site.add()
    first.queue(8)
    await site.turn()
    await site.turn()
    assert second.scaler.waiting.num_queued == 8
    site.clock.now += TTL_S
    await second.step()
    assert second.scaler.waiting.num_queued == 0
    assert second.desired == 4, "for a while yet: somebody may take the sessions over"
    site.clock.now += WINDOW_S + SLACK_S
    assert await second.step() == 0


async def test_a_gateway_that_leaves_takes_its_queue_along(site: Site) -> None:
    first, second = site.add(), site.add()
    first.queue(8)
    await site.turn()
    await first.close()
    await second.step()
    assert second.scaler.waiting.num_queued == 0
    assert second.desired == 4
    site.gateways.remove(first)


async def test_a_new_gateway_gives_the_number_of_the_others_at_once(site: Site) -> None:
    site.serve(2, 2, 2)
    old = site.add()
    old.queue(2)
    await site.turn()
    await site.turn()
    new = Gateway(site.redis, site.clock, "new")
    new.stages.is_listed = new.decoders.is_listed = False
    assert new.desired is None
    assert await new.step() == old.desired == 4
    await new.close()


async def test_a_new_gateway_does_not_talk_the_others_down(site: Site) -> None:
    """It knows only some of the pods at first, even after its time to settle."""
    site.serve(2, 2, 2)
    site.add()
    await site.turn()
    await site.turn()
    new = Gateway(site.redis, site.clock, "new")
    site.clock.now += 31.0
    assert await new.step() == 3
    assert await site.turn() == [3]
    await new.close()


async def test_all_restart_on_an_empty_cluster_and_know_what_a_pod_offers(site: Site) -> None:
    site.size = 4
    site.serve(0)
    site.add()
    await site.turn()
    await site.turn()
    await site.gateways.pop().close()
    site.serve()
    site.clock.now += 86_400
    new = site.add()
    new.queue(5)
    await site.turn()
    assert await site.turn() == [2], "four sessions a pod, where two are assumed"


async def test_while_redis_is_gone(server: RedisServer) -> None:
    server = RedisServer(persistent=False)
    try:
        async with opened(server) as site:
            first, second = site.add(), site.add()
            site.serve(2, 2, 0)
            first.queue(4)
            second.queue(2)
            await site.turn()
            assert await site.turn() == [5, 5]
            server.kill()
            assert await site.turn() == [5, 5]
            second.queue(4)
            assert await site.turn() == [5, 6], "what it sees itself, it counts; the other cannot know"
            site.serve(2, 2, 2, 2, 1, 1)
            assert await site.turn() == [8, 9], "busy pods are seen without Redis"
            first.queue(0)
            second.queue(0)
            site.clock.now += KEPT_S + 1
            answers = await site.turn()
            assert [one.scaler.waiting.num_queued for one in site.gateways] == [0, 0]
            assert answers == [8, 9]
            site.clock.now += WINDOW_S + SLACK_S
            assert await site.turn() == [6, 6], "not below busy, however long it lasts"
            server.start()
            second.queue(6)
            await site.turn()
            assert await site.turn() == [8, 8]
    finally:
        server.close()


async def test_redis_comes_back_empty(server: RedisServer) -> None:
    server = RedisServer(persistent=False)
    try:
        async with opened(server) as site:
            first, second = site.add(), site.add()
            first.queue(10)
            await site.turn()
            await site.turn()
            first.queue(0)
            await site.turn()
            server.kill()
            assert await site.turn() == [5, 5]
            server.start()
            await site.turn()
            assert await site.turn() == [5, 5]
            site.clock.now += 100.0
            assert await site.turn() == [5, 5]
            assert second.desired == 5
    finally:
        server.close()


async def test_nobody_waits_for_a_redis_that_hangs(site: Site) -> None:
    gateway = site.add()
    site.serve(2)
    await site.turn()
    site.redis.freeze()
    try:
        gateway.queue(4)
        stepping = asyncio.create_task(gateway.scaler.step())
        await asyncio.sleep(0)
        assert not stepping.done()
        assert gateway.desired == 3, "made before the exchange, which has not come back"
        await stepping
    finally:
        site.redis.thaw()
    assert gateway.desired == 3


async def test_a_gateway_starts_while_redis_is_gone(server: RedisServer) -> None:
    server = RedisServer(persistent=False)
    server.kill()
    try:
        async with opened(server) as site:
            site.serve(2, 2)
            site.add()
            assert await site.turn() == [None], "the others may know more"
            assert await site.turn(31.0) == [2], "nobody says so"
    finally:
        server.close()


async def test_a_crowd_at_several_gateways_is_one_crowd(site: Site) -> None:
    """No gateway sees it alone; all expect the same of it, and its end ends that."""
    first, second, third = site.add(), site.add(), site.add()
    site.serve(2)
    await site.turn(QUARTER_S)
    for gateway in (first, second, third):
        gateway.queue(4)
    await site.turn()
    crowd = 12 - 0.5 - 2 * 0.5**0.5
    expected = 1 + -(-(12 + int(2 * crowd + 1)) // 2)
    assert await site.turn() == [expected] * 3
    await site.turn(60.0)
    for gateway in site.gateways:
        gateway.queue(0)
    await site.turn(WINDOW_S + SLACK_S)
    assert await site.turn(WINDOW_S + SLACK_S) == [1, 1, 1]


async def test_who_comes_and_leaves_again_is_no_crowd(site: Site) -> None:
    gateway = site.add()
    site.serve(2)
    await site.turn(QUARTER_S)
    for _ in range(100):
        gateway.queue(1)
        gateway.queue(0)
    assert await site.turn() == [3], "two sessions are there, so four more may come"


async def test_a_gateway_that_has_just_come_takes_nothing_for_a_crowd(site: Site) -> None:
    gateway = site.add()
    site.serve(2)
    await site.turn(QUARTER_S - 61.0)
    gateway.queue(12)
    assert await site.turn() == [7]


async def test_a_gateway_of_an_earlier_version_says_three_numbers(site: Site) -> None:
    gateway = site.add()
    later = int(site.clock.now * 1000) + 10**6
    site.redis.command("HSET", "test:{scaler}:gateways", "old", f'"{later} 3 2 1"')
    await site.turn()
    assert gateway.scaler.waiting == Counts(3, 2, 1)


async def test_what_others_left_there_harms_nobody(site: Site) -> None:
    gateway = site.add()
    site.serve(1)
    await site.turn()
    later = f"{int(site.clock.now * 1000) + 10**6}"
    for name, value in {"a": "junk", "b": f"{later}", "c": f'"{later} x y z"', "d": '""'}.items():
        site.redis.command("HSET", "test:{scaler}:gateways", name, value)
    site.redis.command("HSET", "test:{scaler}:gateways", "huge", f'"{later} {"9" * 15} 1 1 new fields"')
    site.redis.command("HSET", "test:{scaler}:wishes", "stage:x", "7", "stage:1", "8")
    await site.turn()
    assert gateway.scaler.waiting == Counts(1_000_000, 1, 1)
    site.redis.command("DEL", "test:{scaler}:gateways")
    site.redis.command("SET", "test:{scaler}:gateways", "5")
    await site.turn()
    assert gateway.scaler.silence_s == 1.0, "Redis refuses, which is an outage"
    site.redis.command("DEL", "test:{scaler}:gateways")
    await site.turn()
    assert gateway.scaler.silence_s == 0.0


async def test_what_is_kept_is_bounded_and_expires(site: Site) -> None:
    shared = SharedDemand(connect(site.redis.url), "test", "g", window_s=3600, ttl_s=3, clock=site.clock)
    sizes = []
    for number in range(1000):
        site.clock.now += 10.0
        said = [Said("stage", number % 7, 3), Said("decoder", 1, None)]
        _, (stages, decoders) = await shared.exchange(Counts(), said)
        if not number % 50:
            sizes.append(int(site.redis.command("HLEN", "test:{scaler}:wishes")[1:]))
    assert (stages.offer, decoders.offer) == (3, None)
    assert [wish for _, wish in stages.wishes] == [5, 6]
    assert all(0 < left_s <= 3600 + SLACK_S for left_s, _ in stages.wishes)
    assert [wish for _, wish in decoders.wishes] == [1]
    assert 1000 < max(sizes) <= 4 * WISHES_KEPT_MS / BUCKET_MS + 2
    keys = ("gateways", "wishes", "offers")
    lives = [int(site.redis.command("PTTL", f"test:{{scaler}}:{key}")[1:]) for key in keys]
    assert all(life > 0 for life in lives)
    await shared.close()


async def test_a_thousand_gateways_die_and_leave_nothing(site: Site) -> None:
    for number in range(1000):
        site.redis.command("HSET", "test:{scaler}:gateways", f"g{number}", f'"{number + 1} 1 1 1"')
    gateway = site.add()
    await site.turn()
    assert gateway.scaler.waiting == Counts()
    assert site.redis.command("HLEN", "test:{scaler}:gateways") == ":1\r\n"


async def test_redis_own_clock_and_cluster_mode() -> None:
    """All keys are in one slot, which a cluster insists on."""
    server = RedisServer(cluster=True, persistent=False)
    try:
        one, other = (
            SharedDemand(connect(server.url), "test", name, window_s=60, ttl_s=30) for name in ("a", "b")
        )
        await one.exchange(Counts(3, 2, 1), [Said("stage", 4, 2)])
        counts, (heard,) = await other.exchange(Counts(), [Said("stage", 2, None)])
        assert counts == Counts(3, 2, 1)
        assert [wish for _, wish in heard.wishes] in ([4], [4, 2])
        assert all(0 < left_s <= 60 + SLACK_S for left_s, _ in heard.wishes)
        assert heard.offer == 2
        await one.leave()
        assert (await other.exchange(Counts(), []))[0] == Counts()
        server.kill()
        with pytest.raises(StoreUnavailable):
            await other.exchange(Counts(), [])
        await one.close()
        await other.close()
    finally:
        server.close()
