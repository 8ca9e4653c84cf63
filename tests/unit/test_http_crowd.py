"""Who is here, by address."""

import pytest

from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.web.crowd import MAX_ADDRESSES, Crowd
from services.web.settings import HttpSettings


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def crowd(clock: Clock | None = None, **settings: object) -> Crowd:
    return Crowd(make(HttpSettings, settings), clock or Clock())


def test_connections_are_counted_by_address() -> None:
    people = crowd(max_connections_per_address=2)
    assert [people.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert people.enter("192.0.2.2")
    people.leave("192.0.2.1")
    assert people.enter("192.0.2.1")


@pytest.mark.parametrize(
    ("host", "forwarded", "network"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.9"], "192.0.2.1"),  # not a proxy of ours: it is not believed
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.9"], "198.51.100.9"),
        ("10.1.2.3", ["6.6.6.6, 198.51.100.9"], "198.51.100.9"),  # what stands before it anybody can write
        ("10.1.2.3", ["6.6.6.6", "198.51.100.9 , 10.0.0.7"], "198.51.100.9"),
        ("10.1.2.3", ["198.51.100.9, nonsense"], "10.1.2.3"),
        ("10.1.2.3", ["10.0.0.7"], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.9:4711"], "198.51.100.9"),  # some proxies tell the port, too
        ("10.1.2.3", ["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64"),
        ("10.1.2.3", ["198.51.100.9, ::ffff:10.0.0.7"], "198.51.100.9"),
        ("::ffff:10.1.2.3", ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3::5%eth0", [], "2001:db8:1:2::/64"),
        ("", [], ""),
    ],
)
async def test_the_client_behind_a_proxy(host: str, forwarded: list[str], network: str) -> None:
    people = crowd(trusted_proxies=["10.0.0.0/8"])
    assert await people.client_of(host, [line.encode() for line in forwarded]) == network


async def test_nobody_is_believed_who_was_not_named() -> None:
    assert await crowd().client_of("127.0.0.1", [b"198.51.100.9"]) == "127.0.0.1"
    with pytest.raises(InvalidConfig):
        crowd(trusted_proxies=["somewhere"])


def test_a_rate_is_used_up_and_comes_back() -> None:
    clock = Clock()
    people = crowd(clock, max_anonymous_per_s=2)
    for _ in range(21):
        assert not people.wait_s("a")
        people.charge("a")
    assert people.wait_s("a") == pytest.approx(0.5)
    assert not people.wait_s("b")
    clock.now += 0.6
    assert not people.wait_s("a")


def test_notes_are_bounded() -> None:
    people = crowd()
    for number in range(MAX_ADDRESSES + 10):
        people.charge(str(number))
    assert len(people._free_again_s) == MAX_ADDRESSES
