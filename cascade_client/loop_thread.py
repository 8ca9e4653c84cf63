"""One event loop in a thread of its own, for callers that have none."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future, wait
from threading import Event, Lock, Thread
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from cascade_client.errors import Unavailable

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - what is inside
P = ParamSpec("P")
CLOSE_DEADLINE_S = 10.0
CLOSED = "the client is closed"


class LoopThread:
    """Safe to share between threads."""

    def __init__(self, at_end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._at_end = at_end
        self._lock = Lock()
        self._is_closed = False
        self._is_ready = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()), name="cascade-client", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._is_ready.set()
        await self._stopping.wait()
        await self._at_end()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """As `await` does. Ctrl-C, which comes to the caller's thread, cancels the work, and what that has to
        put in order is done first. Raises Unavailable where this is closed, or gets closed meanwhile."""
        outcome: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(lambda task: settle(outcome, task))

        with self._lock:
            if self._is_closed:
                work.close()
                raise Unavailable(CLOSED)
            self._loop.call_soon_threadsafe(begin)
        try:
            return outcome.result()
        except CancelledError:
            raise Unavailable(CLOSED) from None
        except BaseException:
            if not outcome.done():
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
                wait([outcome], CLOSE_DEADLINE_S)
            raise

    def close(self) -> None:
        """Cancels what still runs and waits for its end; a second time nothing happens."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(CLOSE_DEADLINE_S)


def settle(outcome: Future[T], task: asyncio.Task[T]) -> None:
    """As the task ended."""
    if task.cancelled():
        outcome.cancel()
        outcome.set_running_or_notify_cancel()
    elif error := task.exception():
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())


class Owner(Generic[I]):
    """Something that lives on a loop, for callers outside of it."""

    def __init__(self, inner: I, thread: LoopThread) -> None:
        self._inner = inner
        self._thread = thread


def blocking(
    method: Callable[Concatenate[I, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Owner[I], P], T]:
    """The method for callers that wait."""

    @functools.wraps(method)
    def call(owner: Owner[I], /, *args: P.args, **options: P.kwargs) -> T:
        return owner._thread.run(method(owner._inner, *args, **options))

    return call


def iterating(
    method: Callable[Concatenate[I, P], AsyncIterator[T]],
) -> Callable[Concatenate[Owner[I], P], Iterator[T]]:
    """The iteration for callers that wait."""

    @functools.wraps(method)
    def call(owner: Owner[I], /, *args: P.args, **options: P.kwargs) -> Iterator[T]:
        items = method(owner._inner, *args, **options)  # a mistake is told now, not at the first item
        return iterate(owner._thread, items)

    return call


def iterate(thread: LoopThread, items: AsyncIterator[T], within_s: float | None = None) -> Iterator[T]:
    """Raises TimeoutError where the next one takes longer; iterating anew goes on."""

    async def following() -> list[T]:
        async with asyncio.timeout(within_s):
            async for item in items:
                return [item]
        return []

    while found := thread.run(following()):
        yield found[0]
