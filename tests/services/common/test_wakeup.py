"""Who waits is woken when there is something to do, and not before."""

import asyncio

import pytest

from services.common.wakeup import Wakeup


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_condition_is_looked_at_with_each_change() -> None:
    wakeup, number, looks = Wakeup(), 0, 0

    def is_three() -> bool:
        nonlocal looks
        looks += 1
        return number >= 3

    waiting, next_one = asyncio.create_task(wakeup.until(is_three)), asyncio.create_task(wakeup.wait())
    await turns()
    wakeup.fire()
    await turns()
    assert next_one.done()
    assert not waiting.done()
    assert looks == 2  # at first and with the change
    number = 3
    wakeup.fire()
    await turns()
    assert waiting.done()


async def test_what_holds_already_is_not_waited_for() -> None:
    await Wakeup().until(lambda: True)


async def test_what_does_not_hold_any_more_is_waited_for() -> None:
    wakeup, is_there = Wakeup(), False
    waiting = asyncio.create_task(wakeup.until(lambda: is_there))
    await turns()
    is_there = True
    wakeup.fire()
    is_there = False  # before the one who waits has its turn
    await turns()
    assert not waiting.done()
    is_there = True
    wakeup.fire()
    await waiting


async def test_who_is_cancelled_leaves_nothing_behind() -> None:
    wakeup, looks = Wakeup(), 0

    def never() -> bool:
        nonlocal looks
        looks += 1
        return False

    waiting = asyncio.create_task(wakeup.until(never))
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    looks = 0
    wakeup.fire()
    assert looks == 0
