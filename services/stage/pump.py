"""One open session: requests in, events out, both at once.

Nothing piles up: blocks stay in the engine, which stops at MAX_UNREAD_EVENTS; switches wait in a bounded
queue, and a client that sends more is not read from; each task holds at most one message to be written.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from cascade.v1 import stage_pb2
from cascade_core.engine.session import Ended, LatentBlock, PromptApplied, Session
from cascade_core.errors import SessionClosed, SessionLost
from services.common.drain import DRAINING, Drain
from services.common.errors import Draining, ProtocolViolation
from services.stage import messages
from services.stage.metrics import StageMetrics
from services.stage.opening import Open, Requests
from services.stage.receipts import Response
from services.stage.switches import Switches

Credit = stage_pb2.GenerateRequest.Credit
Write = Callable[[Response], Awaitable[None]]


class Pump:
    """Runs one session from `opened` to `ended`."""

    def __init__(
        self,
        session: Session,
        message: Open,
        requests: Requests,
        write: Write,
        drain: Drain,
        metrics: StageMetrics,
        request_id: str,
    ) -> None:
        """`request_id`: of the call."""
        self._session = session
        self._dtype = message.latent_dtype
        self._credit_end = max(message.credit_end_block, message.start_block)
        self._requests = requests
        self._write = write
        self._drain = drain
        self._writing = asyncio.Lock()
        self._switches = Switches(session, self._send, metrics, request_id)

    async def run(self) -> None:
        """Returns after `ended` is written. Raises what ended the session (in an ExceptionGroup)."""
        async with asyncio.TaskGroup() as group:
            others = [
                group.create_task(self._read()),
                group.create_task(self._switches.run()),
                group.create_task(self._announce_drain()),
            ]
            await self._forward()
            for task in others:
                task.cancel()

    async def _send(self, message: Response) -> None:
        """gRPC takes one message at a time."""
        async with self._writing:
            await self._write(message)

    async def _forward(self) -> None:
        """The engine's events, until the last."""
        try:
            async for event in self._session:
                match event:
                    case LatentBlock():
                        await self._send(messages.block(event, self._dtype))
                    case PromptApplied():
                        await self._switches.send_applied(event)
                    case Ended():
                        await self._send(messages.ended(event))
        except SessionClosed:  # the engine itself was closed
            raise Draining(DRAINING) from None

    async def _read(self) -> None:
        """Requests, until the client closes."""
        async for request in self._requests:
            match request.WhichOneof("message"):
                case "credit":
                    self._grant(request.credit)
                case "switch_prompt":
                    await self._switches.put(request.switch_prompt)
                case "close":
                    break
                case other:
                    raise ProtocolViolation(f"`{other}` must not come after the session is open")
        await self._session.close()

    def _grant(self, credit: Credit) -> None:
        num_blocks = credit.end_block - self._credit_end
        needed_in_s = credit.needed_in.ToTimedelta().total_seconds() if credit.HasField("needed_in") else None
        if num_blocks > 0:
            self._credit_end = credit.end_block
            with suppress(SessionClosed, SessionLost):  # the events say so
                self._session.grant(num_blocks, needed_in_s)

    async def _announce_drain(self) -> None:
        await self._drain.begun.wait()
        await self._send(messages.draining(self._drain.time_left_s))
