"""Who owns a session: the highest epoch, and how the older stream leaves."""

import asyncio

import pytest

from services.common import epochs as epochs_module
from services.common.epochs import KEPT_S, Epochs
from services.common.errors import Fenced, NotReady
from tests.services.common.test_health import Clock

WAIT_S = 20.0


async def test_lower_and_equal_ones_are_refused_until_forgotten() -> None:
    clock = Clock()
    epochs = Epochs(clock)
    async with epochs.hold("a", 5):
        for epoch in (4, 5):
            with pytest.raises(Fenced) as caught:
                async with epochs.hold("a", epoch):
                    pass
            assert caught.value.epoch == 5
        async with epochs.hold("b", 1):
            pass
        clock.now = 10 * KEPT_S
        with pytest.raises(Fenced):
            async with epochs.hold("a", 5):
                pass
    clock.now += KEPT_S - 1
    with pytest.raises(Fenced):
        async with epochs.hold("a", 5):
            pass
    clock.now += 1
    async with epochs.hold("a", 1):
        pass
    assert len(epochs._kept) == 1, "what is over is forgotten"


async def test_a_newer_one_waits_until_the_older_stream_has_left() -> None:
    epochs, left = Epochs(), []

    async def hold(epoch: int) -> None:
        async with epochs.hold("a", epoch) as hold:
            try:
                await asyncio.wait_for(hold.watch(), WAIT_S)
            finally:
                await asyncio.sleep(0.01)
                left.append(epoch)

    streams = [asyncio.create_task(hold(epoch)) for epoch in (1, 2, 3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_S), epochs.hold("a", 4):
        assert left == [1, 2, 3]
        ends = await asyncio.gather(*streams, return_exceptions=True)
    assert [end.epoch for end in ends if isinstance(end, Fenced)] == [2, 3, 4]
    assert not epochs._held


async def test_one_that_does_not_leave_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs_module, "HANDOVER_S", 0.05)
    epochs = Epochs()
    async with epochs.hold("a", 1):
        with pytest.raises(NotReady):
            async with epochs.hold("a", 2):
                pass
    with pytest.raises(Fenced):
        async with epochs.hold("a", 2):
            pass


async def test_they_are_bounded_and_the_oldest_go_first() -> None:
    epochs = Epochs(max_kept=3)
    for number in range(10):
        async with epochs.hold(str(number), 7):
            pass
    assert list(epochs._kept) == ["7", "8", "9"]


def fenced(epochs: Epochs, session: str, epoch: int) -> int:
    """The highest epoch, as the refusal of this one tells it."""
    with pytest.raises(Fenced) as caught:
        epochs.check(session, epoch)
    return caught.value.epoch


async def test_a_newer_epoch_ends_the_older_stream_and_is_remembered() -> None:
    clock = Clock()
    epochs = Epochs(clock, kept_s=600)
    told: list[int] = []
    async with epochs.hold("s", 1, lambda error: told.append(error.epoch)):
        assert fenced(epochs, "s", 1) == 1
        async with epochs.hold("s", 3, lambda error: None):
            assert told == [3]
            assert fenced(epochs, "s", 2) == 3
        assert fenced(epochs, "s", 3) == 3
        clock.now = 100
    clock.now = 599
    assert fenced(epochs, "s", 3) == 3, "the old stream's end is not the session's last"
    epochs.check("other", 1)
    clock.now = 600
    epochs.check("s", 1)


async def test_who_gives_up_at_once_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a turn of the event loop: nobody comes in between and takes what was given up."""
    monkeypatch.setattr(epochs_module, "HANDOVER_S", 0.0)
    epochs, turns = Epochs(), []
    async with epochs.hold("s", 1, lambda error: asyncio.get_running_loop().call_soon(turns.append, 1)):
        async with epochs.hold("s", 2):
            assert turns == []
        with pytest.raises(Fenced):
            epochs.check("s", 2)


async def test_a_live_session_is_never_forgotten_and_the_others_are_bounded() -> None:
    clock = Clock()
    epochs = Epochs(clock, kept_s=600, max_kept=2)
    async with epochs.hold("live", 5):
        for name in "abc":
            async with epochs.hold(name, 1):
                pass
        epochs.check("a", 1)
        assert fenced(epochs, "b", 1) == 1
        clock.now = 10_000
        assert fenced(epochs, "live", 5) == 5
        epochs.check("b", 1)
