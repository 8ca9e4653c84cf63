"""The rank processes of one engine: start them, talk to them, notice their end, kill them."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from cascade_core.config import EngineConfig, ModelCard
from cascade_core.machine import num_threads
from cascade_core.ranks.messages import (
    Command,
    Embedding,
    Encode,
    Encoded,
    Failed,
    Load,
    Open,
    Opened,
    Ready,
    Reply,
    StartTimes,
    Ticked,
)
from cascade_core.ranks.pipe import pack, read_message
from cascade_core.ranks.processes import ForkServer, RankProcess
from cascade_core.weights.locate import Located, ModelFiles

CLOSE_GRACE_S = 3.0
T = TypeVar("T")


def _all(answers: Iterable[Awaitable[T]]) -> asyncio.Future[list[T]]:
    """The answers of all ranks, in order."""

    async def collect() -> list[T]:
        return [await answer for answer in answers]

    return asyncio.ensure_future(collect())


async def in_daemon_thread(function: Callable[[], T]) -> T:
    """Run slow blocking work, such as a download; the process may end without waiting for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def work() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="locate", daemon=True).start()
    return await future


class GroupLost(Exception):
    """A rank died, failed, or missed a deadline: the whole group must go."""


@dataclass
class Rank:
    """The engine's end of one rank process."""

    index: int
    process: RankProcess
    writer: asyncio.StreamWriter
    ticks: asyncio.Queue[Ticked] = field(default_factory=asyncio.Queue)
    """Bounded by the engine: no more replies than ticks sent ahead."""
    ready: asyncio.Future[Ready] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class RankGroup:
    """All ranks of one engine. It lives and dies as a whole: collectives leave no other choice."""

    def __init__(
        self,
        config: EngineConfig,
        card: ModelCard,
        files: ModelFiles | None,
        forks: ForkServer,
        loras: Located = (),
    ) -> None:
        """`files` None: random weights."""
        self._forks = forks
        self._config = config
        self._card = card
        self._files = files
        self._loras = loras
        self._folder = tempfile.TemporaryDirectory(prefix="cascade-ranks-", ignore_cleanup_errors=True)
        self._ranks: list[Rank] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._requests = itertools.count()
        self._opened: dict[int, list[asyncio.Future[Opened]]] = {}
        self._encoded: dict[int, asyncio.Future[Encoded]] = {}
        self.failure: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        """Done as soon as the group is lost; a CascadeError if the user can act on it, else GroupLost."""
        self.ready: list[Ready] = []

    @property
    def process_ids(self) -> list[int]:
        return [rank.process.pid for rank in self._ranks]

    @property
    def start_times(self) -> StartTimes:
        """Each part of the start on the rank that took longest; zeros before all are ready."""
        times = [rank.times for rank in self.ready]
        return StartTimes(
            load_s=max((each.load_s for each in times), default=0.0),
            join_s=max((each.join_s for each in times), default=0.0),
            warm_up_s=max((each.warm_up_s for each in times), default=0.0),
        )

    async def start(self) -> None:
        """Start all ranks and wait until they are ready; raises what made them fail."""
        loading = asyncio.ensure_future(self._load())
        self.ready = await self._answer(loading, self._config.start_deadline_s, "loading")

    async def tick(self) -> list[Ticked]:
        """Every rank's answer to the oldest unanswered tick."""
        answers = _all(rank.ticks.get() for rank in self._ranks)
        return await self._answer(answers, self._config.tick_deadline_s, "a tick")

    async def open(self, command: Open) -> None:
        """Make room on every rank; MemoryError if one has none."""
        loop = asyncio.get_running_loop()
        self._opened[command.session] = [loop.create_future() for _ in self._ranks]
        self.send(command)
        try:
            answers = _all(self._opened[command.session])
            opened = await self._answer(answers, self._config.request_deadline_s, "opening a session")
        finally:
            del self._opened[command.session]
        for answer in opened:
            if answer.error:
                raise MemoryError(answer.error)

    async def encode(self, prompt: str) -> Embedding:
        """Embed a prompt on rank 0; raises InvalidPrompt."""
        request = next(self._requests)
        future: asyncio.Future[Encoded] = asyncio.get_running_loop().create_future()
        self._encoded[request] = future
        self._ranks[0].writer.write(pack(Encode(request, prompt)))
        try:
            answer = await self._answer(future, self._config.request_deadline_s, "embedding a prompt")
        finally:
            del self._encoded[request]
        if answer.error:
            raise answer.error
        assert answer.embedding is not None
        return answer.embedding

    def send(self, command: Command) -> None:
        """Send to every rank, in the same order; does not wait."""
        data = pack(command)
        for rank in self._ranks:
            rank.writer.write(data)

    def send_to(self, rank: int, command: Command) -> None:
        """Send to one rank, behind what all were sent; does not wait."""
        self._ranks[rank].writer.write(pack(command))

    async def close(self) -> None:
        """Ask (close the links), wait a little, kill."""
        if not self.failure.done():
            self.failure.set_result(GroupLost("closed"))
        for rank in self._ranks:
            rank.writer.close()
        exits = [asyncio.ensure_future(rank.process.wait()) for rank in self._ranks]
        try:
            if exits:
                await asyncio.wait(exits, timeout=CLOSE_GRACE_S)
        finally:  # a caller who does not wait that long leaves no process either
            self.kill()
            self._folder.cleanup()
        if exits:
            await asyncio.wait(exits, timeout=CLOSE_GRACE_S)  # a hung driver can hold even a killed process
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def kill(self) -> None:
        """End all ranks at once; `close` still has to follow."""
        for rank in self._ranks:
            if not rank.process.is_over:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank.process.pid, signal.SIGKILL)

    async def _load(self) -> list[Ready]:
        try:
            for index in range(self._config.num_ranks):
                self._ranks.append(await self._spawn(index))
        except OSError as error:
            raise GroupLost(f"no process for rank {len(self._ranks)}: {error}") from None
        return await _all(rank.ready for rank in self._ranks)

    async def _spawn(self, index: int) -> Rank:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            try:
                process = await self._forks.start_rank(theirs.fileno())
            except BaseException:
                writer.close()
                raise
        rank = Rank(index, process, writer)
        threads = self._config.threads_per_rank or num_threads(self._config.num_ranks)
        rendezvous = Path(self._folder.name) / "rendezvous"
        load = Load(self._card, self._config, self._files, index, threads, rendezvous, self._loras)
        writer.write(pack(load))
        self._tasks.append(asyncio.create_task(self._listen(rank, reader), name=f"rank-{index}"))
        return rank

    async def _listen(self, rank: Rank, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._route(rank, await read_message(reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            code = await rank.process.wait()
            hint = " (killed, perhaps for lack of memory)" if code == -signal.SIGKILL else ""
            status = "" if code is None else f" with exit status {code}"
            self._lose(GroupLost(f"rank {rank.index} ended{status}{hint}"))
        except Exception as error:
            self._lose(GroupLost(f"rank {rank.index} answered what makes no sense: {error!r}"))

    def _route(self, rank: Rank, reply: Reply) -> None:
        match reply:
            case Ticked():
                rank.ticks.put_nowait(reply)
            case Encoded() if (future := self._encoded.get(reply.request)) and not future.done():
                future.set_result(reply)
            case Opened() if futures := self._opened.get(reply.session):
                if not futures[rank.index].done():
                    futures[rank.index].set_result(reply)
            case Ready():
                rank.ready.set_result(reply)
            case Failed():
                self._lose(reply.error or GroupLost(f"rank {rank.index}: {reply.message}"))

    def _lose(self, error: Exception) -> None:
        if not self.failure.done():
            self.failure.set_result(error)

    async def first(self, answer: asyncio.Future[T], timeout_s: float | None = None) -> T:
        """The answer; raises what ended the group if that comes first, TimeoutError after `timeout_s`."""
        waiting: list[asyncio.Future[Any]] = [answer, self.failure]
        try:
            done, _ = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if answer in done:
                return answer.result()
        finally:
            answer.cancel()
        if not done:
            raise TimeoutError
        raise self.failure.result()

    async def _answer(self, answer: asyncio.Future[T], deadline_s: float, what: str) -> T:
        """The answer; a missed deadline means that a rank hangs, which is the end of the group."""
        try:
            return await self.first(answer, deadline_s)
        except TimeoutError:
            self._lose(GroupLost(f"{what} took longer than {deadline_s:g} s"))
            raise self.failure.result() from None
