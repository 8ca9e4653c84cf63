"""One stream of Connect to the gateway, read and written as HTTP needs it."""

import asyncio

import grpc

from cascade.v1 import session_pb2
from cascade_client.keep_status import keep_status
from services.common.errors import NotReady
from services.common.streams import BROKEN
from services.web.backend import Backend, Credentials

Request = session_pb2.ConnectRequest
Response = session_pb2.ConnectResponse
ATTACH_DEADLINE_S = 20.0
"""A session that is changing hands answers late."""


class ConnectStream:
    """Reads raise AioRpcError, or NotReady where the stream was lost."""

    def __init__(self, backend: Backend, credentials: Credentials) -> None:
        self._call = backend.connect(credentials)
        keep_status(self._call)

    async def attach(self, attach: Request.Attach) -> Response.Attached:
        """The answer. Raises what the attempt failed with."""
        try:
            async with asyncio.timeout(ATTACH_DEADLINE_S):
                await self.write(Request(attach=attach))
                answer = await self.read()
        except TimeoutError:
            raise NotReady("the session did not answer; try again") from None
        if answer is None or not answer.HasField("attached"):
            raise NotReady("the session ended its stream; try again")
        return answer.attached

    async def read(self) -> Response | None:
        """The next message; None: the stream has ended well."""
        try:
            message = await self._call.read()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._call.cancelled() and not (task and task.cancelling()):
                raise NotReady("the stream was lost; attach again") from None
            raise
        return message if isinstance(message, Response) else None

    async def write(self, message: Request) -> None:
        """A stream that has ended swallows it: the next read says why it ended."""
        try:
            await self._call.write(message)
        except (*BROKEN, grpc.aio.AioRpcError):
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise

    def close(self) -> None:
        """Detach; harmless where it has ended."""
        self._call.cancel()
