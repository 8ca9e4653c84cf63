"""Streams: messages that must come first, in order and in time; writes that meet the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from services.common.errors import FirstMessageLate, ProtocolViolation

MESSAGE_DEADLINE_S = 10.0
"""For the first message, and for each further one that has to come before the stream is open."""
BROKEN = (asyncio.InvalidStateError, grpc.aio.UsageError)
"""What writing to a stream that is over raises."""


M = TypeVar("M", bound=Message)


class KeepsStatus:
    """gRPC's inner call, but a write that meets the end of the stream puts no status of its own in front of
    the server's: by "Internal error from Core", a refusal would look like a loss.

    It stands in for a private part of grpcio (1.85), which has no public way; `tests/services/common/
    test_streams.py` sees it if that part changes.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send_serialized_message(self, message: bytes) -> None:
        """Lost where the stream has ended, as on the wire: reading says why. No wait for the status here: it
        comes after all messages that are still to be read, perhaps by the one who writes."""
        with suppress(grpc.aio.InternalError):
            await self._inner.send_serialized_message(message)


def keep_status(call: Any) -> None:
    """Let a call that is written to end with what its server says. To be called before the first write."""
    call._cython_call = KeepsStatus(call._cython_call)


async def next_message(requests: AsyncIterator[M], expected: str) -> M:
    """The next message, which must be of that kind of its oneof `message`. Raises FirstMessageLate or
    ProtocolViolation."""
    try:
        async with asyncio.timeout(MESSAGE_DEADLINE_S):
            message = await anext(requests)
    except TimeoutError:
        raise FirstMessageLate(f"`{expected}` did not come within {MESSAGE_DEADLINE_S:g} s") from None
    except StopAsyncIteration:
        raise ProtocolViolation(f"the stream ended where `{expected}` must come") from None
    kind = message.WhichOneof("message")
    if kind != expected:
        raise ProtocolViolation(f"`{kind}` came where `{expected}` must come")
    return message
