"""The clients of the load: many sessions in one process, each acknowledging what it receives.

python -m benchmarks.services_clients --target HOST:PORT --sessions N --interval S --segment-bytes N

Prints `ready` once all sessions play, counts from the line `go` on stdin to the line `stop`, ends the
sessions and prints what it saw as one line of JSON.
"""

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc

from benchmarks.services_fakes import added_s
from cascade.v1 import session_pb2
from cascade.v1.session_pb2_grpc import SessionServiceStub
from cascade_client.keep_status import keep_status
from services.common.entry import spare_collections

START_S = 90.0
END_S = 30.0
RETRY_S = 0.2
OPTIONS = [
    ("grpc.max_receive_message_length", 9 * 2**20),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, as a client elsewhere has
]
Request = session_pb2.ConnectRequest


@dataclass
class Tally:
    """What all clients of this process saw."""

    num_segments: int = 0
    """While it counted."""
    num_received: int = 0
    """From first to last."""
    faults: list[str] = field(default_factory=list)
    added_ms: list[float] = field(default_factory=list)
    """Per segment, while it counted."""
    is_counting: bool = False

    def fault(self, text: str) -> None:
        if len(self.faults) < 100:
            self.faults.append(text)


class LoadClient:
    """One session and its controller."""

    def __init__(self, target: str, segment_bytes: int, tally: Tally) -> None:
        self.name = ""
        self.has_played = asyncio.Event()
        self.is_ending = False
        self._target = target
        self._segment_bytes = segment_bytes
        self._tally = tally
        self._sequence = 0
        self._end = ""

    async def run(self) -> None:
        """From creation to the session's end; what is wrong is in the tally."""
        async with grpc.aio.insecure_channel(self._target, OPTIONS) as channel:
            stub: Any = SessionServiceStub(channel)
            spec = session_pb2.SessionSpec(prompts={0: "a red circle moves left"})
            create = session_pb2.CreateSessionRequest(request_id=uuid.uuid4().hex, spec=spec)
            created = await create_session(stub, create)
            self.name = created.session.name
            call = stub.Connect()
            keep_status(call)
            await call.write(Request(attach=Request.Attach(resume_token=created.resume_token)))
            while (message := await call.read()) is not grpc.aio.EOF:
                await self._take(call, message)
        if self._end != "END_REASON_DELETED":
            self._tally.fault(f"{self.name}: ended with {self._end or 'nothing'}")

    async def _take(self, call: Any, message: session_pb2.ConnectResponse) -> None:
        if message.HasField("segment"):
            self._count(message.segment, time.monotonic())
            await call.write(Request(ack=Request.Ack(sequence=self._sequence)))
            if self.is_ending:
                await call.write(Request(end=Request.End(request_id="end")))
                self.is_ending = False
        elif message.HasField("ended"):
            self._end = session_pb2.EndReason.Name(message.ended.reason)
        elif message.HasField("recovery_started"):
            self._tally.fault(f"{self.name}: {message.recovery_started}")

    def _count(self, segment: session_pb2.ConnectResponse.Segment, now: float) -> None:
        tally, media = self._tally, segment.media
        self._sequence += 1
        if (segment.sequence, media.block) != (self._sequence, self._sequence - 1):
            tally.fault(f"{self.name}: {segment.sequence} of block {media.block} after {self._sequence - 1}")
            self._sequence = segment.sequence
        if len(media.data) != self._segment_bytes:
            tally.fault(f"{self.name}: {len(media.data)} bytes")
        tally.num_received += 1
        if tally.is_counting:
            tally.num_segments += 1
            tally.added_ms.append(1e3 * added_s(media.data, now))
        self.has_played.set()


async def create_session(stub: Any, request: session_pb2.CreateSessionRequest) -> Any:
    """As the contract has it: after UNAVAILABLE the same request again."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            return await stub.CreateSession(request, timeout=START_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
        await asyncio.sleep(RETRY_S)


async def run(arguments: argparse.Namespace) -> Tally:
    """All sessions from their start to their end."""
    tally = Tally()
    clients = [
        LoadClient(arguments.target, arguments.segment_bytes, tally) for _ in range(arguments.sessions)
    ]
    orders = await standard_input()
    tasks = []
    for client in clients:  # spread over one interval, as sessions that know nothing of each other are
        tasks.append(asyncio.create_task(client.run()))
        await asyncio.sleep(arguments.interval / len(clients))
    running = asyncio.gather(*tasks)
    try:
        await first(asyncio.gather(*(client.has_played.wait() for client in clients)), running, START_S)
        print("ready", flush=True)
        for is_counting in (True, False):
            await first(orders.readline(), running, None)
            tally.is_counting = is_counting
        for client in clients:
            client.is_ending = True
        await asyncio.wait_for(running, END_S)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return tally


async def standard_input() -> asyncio.StreamReader:
    """Read without a thread, which would outlive whatever fails here."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


async def first(waiting: Awaitable[Any], running: "asyncio.Future[Any]", deadline_s: float | None) -> None:
    """Wait, unless a client fails meanwhile."""
    wanted = asyncio.ensure_future(waiting)
    done, _ = await asyncio.wait({wanted, running}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
    if wanted not in done:
        wanted.cancel()
        if running in done:
            running.result()
        raise TimeoutError(f"not all sessions play after {deadline_s} s, or one has ended")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--interval", type=float, required=True)
    parser.add_argument("--segment-bytes", type=int, required=True)
    spare_collections()
    tally = asyncio.run(run(parser.parse_args()))
    print(json.dumps(asdict(tally)))


if __name__ == "__main__":
    main()
