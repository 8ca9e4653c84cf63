"""Several things at once, until the first of them is over."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def race(*runners: Coroutine[Any, Any, Any]) -> None:
    """Until one returns or raises, which it raises too; the others are cancelled and awaited."""
    tasks = [asyncio.ensure_future(runner) for runner in runners]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:  # in the order of the arguments, where several ended at once
        if task in done:
            task.result()
