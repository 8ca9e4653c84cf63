"""Several things at once, until the first of them is over."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def race(*runners: Coroutine[Any, Any, Any], end_s: float | None = None) -> None:
    """Until one returns or raises, which it raises too; the others are cancelled and awaited.

    `end_s`: how long they are awaited; None: until they have ended.
    """
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(runner) for runner in runners]
    try:
        done = await first_of(tasks)
    finally:
        for task in tasks:
            task.cancel()
        ended = asyncio.gather(*tasks, return_exceptions=True)
        await (ended if end_s is None else asyncio.wait({ended}, timeout=end_s))
    for task in tasks:  # in the order of the arguments, where several ended at once
        if task in done:
            task.result()


async def first_of(
    tasks: Iterable["asyncio.Future[Any]"], timeout_s: float | None = None
) -> set["asyncio.Future[Any]"]:
    """Those that are over, as soon as one is, or the time is up; the others go on."""
    done, _ = await asyncio.wait(tuple(tasks), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    return done


def may_fail(task: "asyncio.Future[Any]") -> None:
    """Let it fail without a word, where all who waited for it have left."""
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
