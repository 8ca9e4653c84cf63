"""Discovery against an API server that fails in every way an API server fails."""

import json
from contextlib import aclosing
from pathlib import Path

import pytest

from services.gateway.kubernetes.clock import MAX_BACKOFF_S
from tests.services.support.cluster_support import Follower, following
from tests.services.support.fake_api_server import FakeApiServer, endpoint_object, slice_object
from tests.services.support.fake_clock import HurriedClock

ONE, TWO, THREE = "10.0.0.1:50061", "10.0.0.2:50061", "10.0.0.3:50061"


def put(server: FakeApiServer, *hosts: int, name: str = "s1", service: str = "stage") -> None:
    """One slice with these hosts' pods."""
    entries = (endpoint_object(f"10.0.0.{host}", f"stage-{host}", ready=True) for host in hosts)
    server.put("endpointslices", slice_object(name, *entries, service=service))


async def watched(server: FakeApiServer, follower: Follower, *addresses: str) -> None:
    """Known, and a watch is open."""
    await follower.until_at(*addresses)
    await server.until(lambda: server.watches)


async def test_pods_appear_move_change_readiness_leave_and_vanish() -> None:
    async with FakeApiServer() as server, following(server, HurriedClock()) as follower:
        await follower.until(lambda: follower.sets == [frozenset()])
        put(server, 1)
        await follower.until_at(ONE)
        put(server, 1, 2)
        await follower.until_at(ONE, TWO)
        put(server, 1, 3)
        await follower.until_at(ONE, THREE)
        server.put(
            "endpointslices",
            slice_object(
                "s1",
                endpoint_object("10.0.0.1", "stage-1", ready=False),
                endpoint_object("10.0.0.3", "stage-3", ready=False, terminating=True),
            ),
        )
        await follower.until(lambda: follower.find(THREE).is_terminating)
        assert follower.addresses == {ONE, THREE}, "not ready, and followed"
        assert not follower.find(ONE).is_terminating
        put(server, 1)
        await follower.until_at(ONE)
        put(server, 2, name="s2")
        await follower.until_at(ONE, TWO)
        server.remove("endpointslices", "s1")
        await follower.until_at(TWO)
        assert len(server.of("list")) == 1
        assert server.of("watch")[0].query["allowWatchBookmarks"] == "true"


async def test_whoever_asks_again_is_told_what_is_known() -> None:
    async with FakeApiServer() as server, following(server, HurriedClock()) as follower:
        put(server, 1)
        await watched(server, follower, ONE)
        async with aclosing(follower.endpoints.watch()) as again:
            assert {endpoint.address for endpoint in await anext(again)} == {ONE}


async def test_an_address_that_another_pod_got_is_another_server() -> None:
    async with FakeApiServer() as server, following(server, HurriedClock()) as follower:
        put(server, 1)
        await follower.until_at(ONE)
        server.put("endpointslices", slice_object("s1", endpoint_object("10.0.0.1", "stage-9")))
        await follower.until(lambda: follower.find(ONE).pod.name == "stage-9")


async def test_only_the_own_service_counts() -> None:
    async with FakeApiServer() as server:
        put(server, 7, name="other", service="decoder")
        put(server, 1)
        async with following(server, HurriedClock()) as follower:
            await watched(server, follower, ONE)
            put(server, 8, name="other", service="decoder")
            put(server, 1, 2)
            await follower.until_at(ONE, TWO)
            assert follower.sets == [follower.sets[0], follower.sets[-1]]


@pytest.mark.parametrize("how", ["cut", "end"])
async def test_a_watch_that_breaks_goes_on_where_it_was(how: str) -> None:
    async with FakeApiServer() as server, following(server, HurriedClock()) as follower:
        put(server, 1)
        await watched(server, follower, ONE)
        (server.cut_watches if how == "cut" else server.end_watches)()
        put(server, 1, 2)
        await follower.until_at(ONE, TWO)
        assert len(server.of("list")) == 1, "nothing was missed, so nothing is listed again"
        assert frozenset() not in follower.sets[1:]


@pytest.mark.parametrize("in_stream", [False, True])
async def test_a_version_that_is_gone_is_listed_again_at_once(in_stream: bool) -> None:
    clock = HurriedClock()
    async with FakeApiServer() as server, following(server, clock) as follower:
        put(server, 1)
        await watched(server, follower, ONE)
        put(server, 1, 2)
        await follower.until_at(ONE, TWO)  # by an event, so all is well
        sleeps = len(clock.sleeps)
        server.gone_in_stream = in_stream
        server.end_watches()
        put(server, 1)
        server.compact()
        await follower.until_at(ONE)
        await server.until(lambda: server.watches)
        assert len(server.of("list")) == 2
        assert len(clock.sleeps) == sleeps
        assert frozenset() not in follower.sets[1:]


async def test_a_server_that_always_says_gone_is_not_stormed() -> None:
    clock = HurriedClock()
    async with FakeApiServer() as server:
        put(server, 1)
        server.refuse(410, times=6, verb="watch")
        async with following(server, clock) as follower:
            await watched(server, follower, ONE)
            assert len(server.of("list")) == 7
            assert clock.sleeps == [0.4, 0.8, 1.6, 3.2, 6.4], "the first is spared"


async def test_too_many_requests_are_answered_by_waiting_as_asked() -> None:
    clock = HurriedClock()
    async with FakeApiServer() as server:
        put(server, 1)
        server.refuse(429, verb="list", headers={"Retry-After": "7"})
        async with following(server, clock) as follower:
            await watched(server, follower, ONE)
            assert clock.sleeps == [7.2]
            server.refuse(429, verb="watch", headers={"Retry-After": "11"})
            server.cut_watches()
            put(server, 1, 2)
            await follower.until_at(ONE, TWO)
            assert any(slept >= 11 for slept in clock.sleeps)
            assert len(server.of("list")) == 2, "a busy server is not asked for the whole list"


@pytest.mark.parametrize("status", [500, 502, 503, 401, 403])
async def test_errors_are_waited_out_longer_and_longer_with_what_was_known(status: int) -> None:
    clock = HurriedClock()
    async with FakeApiServer() as server, following(server, clock) as follower:
        put(server, 1)
        await watched(server, follower, ONE)
        server.refuse(status, times=12)
        server.cut_watches()
        await server.until(lambda: not server.refusals and server.watches)
        waits = [slept for slept in clock.sleeps if slept > 0.2]
        assert waits == sorted(waits)
        assert waits[-1] == MAX_BACKOFF_S
        assert follower.addresses == {ONE}
        put(server, 2, name="s2")
        await follower.until_at(ONE, TWO)
        assert frozenset() not in follower.sets[1:]


async def test_a_server_that_is_away_changes_nothing_until_it_returns() -> None:
    clock = HurriedClock()
    async with FakeApiServer() as server, following(server, clock) as follower:
        put(server, 1)
        await watched(server, follower, ONE)
        await server.stop()
        before = len(clock.sleeps)
        await server.until(lambda: len(clock.sleeps) > before + 5)
        assert follower.addresses == {ONE}
        put(server, 2, name="s2")
        await server.start()
        await follower.until_at(ONE, TWO)
        assert frozenset() not in follower.sets[1:]


async def test_a_gateway_that_starts_before_the_server_finds_it_later() -> None:
    server, clock = FakeApiServer(), HurriedClock()
    await server.start()
    await server.stop()
    async with following(server, clock) as follower:
        await server.until(lambda: len(clock.sleeps) > 5)
        assert not follower.sets, "nothing is known, which is not the same as nobody is there"
        put(server, 1)
        await server.start()
        await follower.until_at(ONE)
    await server.stop()


async def test_a_server_that_never_answers_is_given_up_and_asked_again() -> None:
    clock = HurriedClock()
    async with FakeApiServer() as server, following(server, clock, request_timeout_s=0.3) as follower:
        put(server, 1)
        await watched(server, follower, ONE)
        server.is_silent = True
        server.cut_watches()
        before = len(server.calls)
        await server.until(lambda: len(server.calls) > before + 3)
        assert follower.addresses == {ONE}
        server.is_silent = False
        put(server, 2, name="s2")
        await follower.until_at(ONE, TWO)


async def test_a_slow_server_is_waited_for() -> None:
    async with FakeApiServer() as server:
        put(server, 1)
        server.is_silent = True
        async with following(server, HurriedClock()) as follower:
            await server.until(lambda: server.calls)
            assert not follower.sets
            server.is_silent = False
            await watched(server, follower, ONE)
            put(server, 1, 2)
            await follower.until_at(ONE, TWO)
            assert len(server.calls) == 2


async def test_a_watch_that_fell_silent_is_opened_anew() -> None:
    async with FakeApiServer() as server:
        put(server, 1)
        server.is_deaf = True
        fields = {"request_timeout_s": 0.5, "watch_timeout_s": 1.0}
        async with following(server, HurriedClock(), **fields) as follower:
            await watched(server, follower, ONE)
            put(server, 1, 2)
            await server.until(lambda: len(server.of("watch")) > 1)
            server.is_deaf = False
            await follower.until_at(ONE, TWO)


async def test_bookmarks_move_the_version() -> None:
    async with FakeApiServer() as server, following(server, HurriedClock()) as follower:
        put(server, 1)
        await watched(server, follower, ONE)
        server.bookmark()
        put(server, 7, name="other", service="decoder")
        server.bookmark()
        marked = server.watches[0].version
        server.end_watches()
        await server.until(lambda: len(server.of("watch")) > 1)
        assert server.of("watch")[-1].query["resourceVersion"] == marked
        assert len(server.of("list")) == 1


async def test_what_no_event_told_is_found_at_the_next_resync() -> None:
    clock = HurriedClock()
    async with FakeApiServer() as server, following(server, clock, resync_s=600.0) as follower:
        put(server, 1)
        await watched(server, follower, ONE)
        server.objects["endpointslices", "s1"]["endpoints"] = [endpoint_object("10.0.0.2", "stage-2")]
        clock.time_s += 599
        server.end_watches()
        await server.until(lambda: len(server.of("watch")) == 2)
        assert len(server.of("list")) == 1
        clock.time_s += 1
        server.end_watches()
        await follower.until_at(TWO)


async def test_long_lists_come_in_pages_and_are_never_half_believed() -> None:
    clock = HurriedClock()
    async with FakeApiServer() as server:
        for number in range(40):
            entries = (
                endpoint_object(f"10.1.{number}.{host}", f"p-{number}-{host}") for host in range(1, 101)
            )
            server.put("endpointslices", slice_object(f"s{number}", *entries))
        server.refuse(500, verb="list", skip=3)
        async with following(server, clock, page=7) as follower:
            await follower.until(lambda: follower.sets)
            assert [len(found) for found in follower.sets] == [4000]
            assert len(server.of("list")) == 4 + 6
            server.end_watches()
            server.compact()  # the version, and the pages of the list that follows
            await server.until(lambda: len(server.of("list")) >= 10 + 2 + 6 and server.watches)
            assert [len(found) for found in follower.sets] == [4000]


async def test_objects_that_make_no_sense_change_nothing() -> None:
    async with FakeApiServer() as server, following(server, HurriedClock()) as follower:
        put(server, 1)
        await watched(server, follower, ONE)
        server.put("endpointslices", slice_object("s1") | {"addressType": ["IPv4"]})
        server.put("endpointslices", slice_object("bad") | {"endpoints": "many"})
        put(server, 2, name="s2")
        await follower.until_at(ONE, TWO)
        server.compact()
        server.end_watches()  # listed, these are as senseless
        await server.until(lambda: len(server.of("list")) == 2 and server.watches)
        put(server, 3, name="s3")
        await follower.until_at(ONE, TWO, THREE)
        assert all(follower.sets[1:])


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON\n",
        b"[]\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": 7}\n',
        json.dumps({"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "9"}}}).encode() + b"\n",
        json.dumps({"type": "ERROR", "object": {"code": 500, "message": "etcd"}}).encode() + b"\n",
        json.dumps({"type": "ERROR", "object": {}}).encode() + b"\n",
        b"x" * 5_000_000 + b"\n",
    ],
)
async def test_a_watch_that_talks_nonsense_is_opened_anew(line: bytes) -> None:
    async with FakeApiServer() as server, following(server, HurriedClock()) as follower:
        put(server, 1)
        await watched(server, follower, ONE)
        server.say(line)
        await server.until(lambda: len(server.of("watch")) > 1 and server.watches)
        put(server, 1, 2)
        await follower.until_at(ONE, TWO)
        assert all(follower.sets[1:])


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"items": {}}', b'{"metadata": {}, "items": 7}'])
async def test_a_list_that_is_none_is_not_believed(answer: bytes) -> None:
    clock = HurriedClock()
    async with FakeApiServer() as server:
        put(server, 1)
        server.answers += [answer, answer]
        async with following(server, clock) as follower:
            await watched(server, follower, ONE)
            assert [len(found) for found in follower.sets] == [1]
            assert len(server.of("list")) == 3


async def test_a_token_that_was_replaced_is_used_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old\n")
    (tmp_path / "namespace").write_text("films")
    async with FakeApiServer() as server:
        server.token = "old"
        put(server, 1)
        async with following(server, HurriedClock(), account_dir=tmp_path, namespace=None) as follower:
            await watched(server, follower, ONE)
            server.token = "new"
            put(server, 1, 2)
            server.end_watches()
            calls = len(server.calls)
            await server.until(lambda: len(server.calls) > calls + 2)
            (tmp_path / "token").write_text("new\n")
            put(server, 1, 2, 3)
            await follower.until_at(ONE, TWO, THREE)
