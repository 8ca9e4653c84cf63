"""A state that many watch."""

import asyncio

import pytest

from services.common import board as board_module
from services.common.board import Board

WAIT_S = 20.0


async def test_changes_faster_than_a_watcher_are_one_to_it_and_the_end_is_told() -> None:
    state = [0]
    board = Board(lambda: state[0], lambda value: value)
    reports = board.watch(60)
    async with asyncio.timeout(WAIT_S):
        assert await anext(reports) == 0
        state[0] = 1
        state[0] = 2
        assert await anext(reports) == 2
        waiting = asyncio.create_task(anext(reports))
        await asyncio.sleep(0.2)
        assert not waiting.done(), "nothing changed"
        board.close()
        assert await waiting == 2
        assert [report async for report in reports] == []
        assert [report async for report in board.watch(60)] == [2]


async def test_a_watch_tells_now_at_changes_and_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes that are noted are told without looking again and again."""
    monkeypatch.setattr(board_module, "POLL_S", 3600)
    state = {"n": 0}
    board = Board(lambda: state["n"], lambda value: value)
    watch = board.watch(interval_s=3600)
    assert await anext(watch) == 0
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    board.note_change()
    await asyncio.sleep(0)
    assert not waiting.done(), "nothing differs"
    state["n"] = 1
    board.note_change()
    assert await asyncio.wait_for(waiting, WAIT_S) == 1
    state["n"] = 2
    board.note_change()  # while nobody waits
    assert await asyncio.wait_for(anext(watch), WAIT_S) == 2
    often = board.watch(interval_s=0.001)
    assert [await asyncio.wait_for(anext(often), WAIT_S) for _ in range(3)] == [2, 2, 2]
    board.close()
    assert [value async for value in watch] == [2]
