"""What the fake stage and the fake decoder have in common: a real server that can refuse, fall silent, drain,
break its streams and die, as often as a test likes."""

import asyncio
import hashlib
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from cascade.v1 import common_pb2
from cascade_core.errors import CascadeError, OutOfCapacity
from services.common.addresses import join
from services.common.errors import Draining, Fenced, NotReady, ProtocolViolation, RequestIdReused
from services.common.status import describe

MAX_BYTES = 17 * 2**20
HISTORY = 4096
"""Streams that a machine remembers for the test that looks."""
OPEN = -1
"""Instead of a block's number: at the opening."""
FORMAT = struct.Struct("<8sQQ8s")
MAGIC = b"cascade!"

Fault = BaseException | grpc.StatusCode | str
"""An error of the contract, a bare status without details, or `silent` (the stream stays, nothing comes),
`cut` (OK without `ended`), `die` (the process is gone)."""


@dataclass(frozen=True)
class Mark:
    """The beginning of a latent block's data, which its segment carries on."""

    block: int
    epoch: int
    """Of the stage's stream that made it."""
    prompt: bytes
    """`prompt_mark` of the prompt that ruled it."""

    def pack(self) -> bytes:
        return FORMAT.pack(MAGIC, self.block, self.epoch, self.prompt)

    @classmethod
    def of(cls, data: bytes) -> "Mark":
        magic, block, epoch, prompt = FORMAT.unpack_from(data)
        assert magic == MAGIC
        return cls(block, epoch, prompt)


def prompt_mark(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]


class Changes:
    """Counted, so that none is missed."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def fire(self) -> None:
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def beyond(self, count: int) -> None:
        """Until there were more."""
        while self.count <= count:
            await self._event.wait()


class Stream:
    """One Generate or Decode call."""

    def __init__(self, machine: "Machine", session: str, epoch: int) -> None:
        self.machine = machine
        self.session = session
        self.epoch = epoch
        self.news = asyncio.Event()
        """Cleared by whoever looks, before it looks."""
        self.is_closing = False
        """The client has said all."""
        self.error: Exception | None = None
        """What the machine ends it with."""
        self.is_drain_told = False
        self.is_over = False

    def end(self, error: Exception) -> None:
        self.error = self.error or error
        self.news.set()

    async def read(self, requests: AsyncIterator[Any]) -> None:
        """Take the client's messages until it has said all."""
        try:
            async for request in requests:
                self.take(request)
                self.news.set()
                if self.is_closing:
                    return
        except CascadeError as error:
            self.end(error)
        self.is_closing = True
        self.news.set()

    def take(self, request: Any) -> None:
        """Raises ProtocolViolation."""
        raise NotImplementedError


class Machine:
    """One server on loopback; `start` after `kill` is another process at the same address."""

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, capacity: int = 4, open_s: float = 0.0
    ) -> None:
        """`open_s`: time from the last warm-up or context block to `opened`."""
        self._host = host
        self.address = join(host, port)
        self.capacity = capacity
        self.open_s = open_s
        self.state: int = common_pb2.SERVING_STATE_READY
        self.faults: dict[int, list[Fault]] = {}
        """By block, or OPEN: each happens once."""
        self.streams: deque[Any] = deque(maxlen=HISTORY)
        """All that were opened, over all processes at this address."""
        self.sessions: dict[str, Any] = {}
        """Streams that are open, by session."""
        self.is_silent = False
        self.instance = ""
        self.num_blocks = 0
        self.num_watchers = 0
        self.drain: common_pb2.DrainStatus | None = None
        self.drains: dict[str, bytes] = {}
        self._drain_end_s = 0.0
        self._drain_timer: asyncio.TimerHandle | None = None
        self._epochs: dict[str, int] = {}
        self._start_time = Timestamp()
        self._changed = Changes()
        self._server: grpc.aio.Server | None = None
        self._deaths: set[asyncio.Task[None]] = set()

    # Its life.

    def register(self, server: grpc.aio.Server) -> None:
        raise NotImplementedError

    def fill_status(self, status: Any) -> None:
        """Set what only this kind of machine reports."""
        raise NotImplementedError

    async def start(self) -> None:
        """As a new process at the same address as before."""
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_BYTES)]
        self._server = grpc.aio.server(options=[*options, ("grpc.max_send_message_length", MAX_BYTES)])
        self.register(self._server)
        self.state, self.drain, self.is_silent = common_pb2.SERVING_STATE_READY, None, False
        self.instance = uuid4().hex
        self._epochs, self.sessions, self.drains = {}, {}, {}
        self._start_time.GetCurrentTime()
        self.address = join(self._host, self._server.add_insecure_port(self.address))
        await self._server.start()

    async def kill(self) -> None:
        """As a process that dies: all streams break, nobody listens."""
        server, self._server = self._server, None
        if self._drain_timer:
            self._drain_timer.cancel()
        if server:
            await server.stop(None)
        if others := self._deaths - {asyncio.current_task()}:  # type: ignore[arg-type]
            await asyncio.wait(others, timeout=5.0)

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    async def __aenter__(self) -> Any:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    # What a test does to it.

    def fail(self, block: int, fault: Fault) -> None:
        """At this block, or OPEN, once."""
        self.faults.setdefault(block, []).append(fault)

    def silence(self, is_silent: bool = True) -> None:
        """As under SIGSTOP: connections stay, nothing comes."""
        self.is_silent = is_silent
        self._changed.fire()

    def set_state(self, state: int) -> None:
        self.state = state
        self._changed.fire()

    def set_capacity(self, capacity: int) -> None:
        self.capacity = capacity
        self._changed.fire()

    def lose_sessions(self, error: Exception) -> None:
        """End all streams with this error."""
        for stream in self.sessions.values():
            stream.end(error)

    def begin_drain(self, timeout_s: float, reason: str = "") -> common_pb2.DrainStatus:
        """As the Drain call does it."""
        loop, end_s = asyncio.get_running_loop(), time.monotonic() + timeout_s
        if self.drain is None or end_s < self._drain_end_s:
            self._drain_end_s = end_s
            if self._drain_timer:
                self._drain_timer.cancel()
            self._drain_timer = loop.call_later(
                timeout_s, self.lose_sessions, Draining("this machine leaves")
            )
        self.state, self.drain = common_pb2.SERVING_STATE_DRAINING, common_pb2.DrainStatus(reason=reason)
        for stream in self.sessions.values():
            stream.news.set()
        self._changed.fire()
        return self.drain_status()

    def drain_status(self) -> common_pb2.DrainStatus:
        assert self.drain is not None
        status = common_pb2.DrainStatus(num_sessions=len(self.sessions), reason=self.drain.reason)
        status.safe_to_delete = not self.sessions
        status.time_left.FromMilliseconds(int(1000 * self.drain_left_s()))
        return status

    def drain_left_s(self) -> float:
        return max(0.0, self._drain_end_s - time.monotonic())

    # What its calls have in common.

    async def watch(self, request: Any, response: Callable[[], Any], context: Any) -> AsyncIterator[Any]:
        interval_s = request.interval.ToMilliseconds() / 1000 if request.HasField("interval") else 1.0
        self.num_watchers += 1
        try:
            while True:
                seen = self._changed.count
                if not self.is_silent:
                    report = response()
                    self._describe(report.status)
                    yield report
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval_s):
                        await self._changed.beyond(seen)
        finally:
            self.num_watchers -= 1

    def take_drain(self, request: Any) -> common_pb2.DrainStatus:
        """Raises RequestIdReused."""
        content = request.SerializeToString(deterministic=True)
        if self.drains.setdefault(request.request_id, content) != content:
            raise RequestIdReused(f"request_id {request.request_id}: was used with other content")
        timeout_s = request.timeout.ToMilliseconds() / 1000 if request.HasField("timeout") else 300.0
        return self.begin_drain(timeout_s, request.reason)

    async def admit(self, stream: Stream) -> None:
        """Give the stream its place. Raises what the contract lists."""
        seen = self._epochs.get(stream.session, 0)
        if stream.epoch <= seen:
            raise Fenced(f"epoch {stream.epoch} was seen", epoch=seen)
        await self.suffer(OPEN)
        if self.state == common_pb2.SERVING_STATE_DRAINING:
            raise Draining("this machine leaves")
        if self.state != common_pb2.SERVING_STATE_READY:
            raise NotReady("this machine is not ready")
        self._epochs[stream.session] = stream.epoch
        if former := self.sessions.pop(stream.session, None):
            former.end(Fenced("a newer stream took over", epoch=stream.epoch))
        if len(self.sessions) >= self.capacity:
            raise OutOfCapacity(f"all {self.capacity} places are taken")
        self.sessions[stream.session] = stream
        self.streams.append(stream)
        self._changed.fire()

    def leave(self, stream: Stream) -> None:
        """The stream is over."""
        stream.is_over = True
        if self.sessions.get(stream.session) is stream:
            del self.sessions[stream.session]
        self._changed.fire()

    async def suffer(self, block: int) -> None:
        """The next fault of this block, if it has one. Raises it."""
        faults = self.faults.get(block)
        if not faults:
            return
        match faults.pop(0):
            case BaseException() as error:
                raise error
            case grpc.StatusCode() as code:
                raise Bare(code)
            case "cut":
                raise Cut
            case "silent":
                await asyncio.Event().wait()
            case "die":
                death = asyncio.create_task(self.kill())
                self._deaths.add(death)
                death.add_done_callback(self._deaths.discard)
                await asyncio.Event().wait()
            case fault:
                raise AssertionError(f"no fault {fault}")

    async def audible(self) -> None:
        """Until the machine is not silent."""
        while self.is_silent:
            await self._changed.beyond(self._changed.count)

    def _describe(self, status: Any) -> None:
        status.server.instance_id, status.server.version = self.instance, "fake"
        status.server.start_time.CopyFrom(self._start_time)
        status.state = self.state
        status.max_sessions, status.num_sessions = self.capacity, len(self.sessions)
        if self.drain:
            status.drain.CopyFrom(self.drain_status())
        self.fill_status(status)


class Bare(Exception):
    """End with a status that has no details, as a proxy or a library does."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code


class Cut(Exception):
    """End with OK, out of order."""


async def told(responses: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    """The same, with errors as the contract has them."""
    try:
        async for response in responses:
            yield response
    except Bare as bare:
        await context.abort(bare.code, "no details")
    except Cut:
        return
    except CascadeError as error:
        wire: Any = rpc_status.to_status(describe(error, "fake"))
        await context.abort(wire.code, wire.details, wire.trailing_metadata)


async def next_of(requests: AsyncIterator[Any], kind: str) -> Any:
    """The next message, which must be of this kind. Raises ProtocolViolation."""
    request = await anext(requests, None)
    if request is None or not request.HasField(kind):
        raise ProtocolViolation(f"{kind} is due")
    return getattr(request, kind)


async def until_idle(machine: Machine, limit_s: float = 5.0) -> None:
    """Until it has no session left."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while machine.sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert not machine.sessions
