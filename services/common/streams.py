"""Streams: messages that must come first, in order and in time; what writing to one that is over raises."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from services.common.errors import FirstMessageLate, ProtocolViolation

MESSAGE_DEADLINE_S = 10.0
"""For the first message, and for each further one that has to come before the stream is open."""
BROKEN = (asyncio.InvalidStateError, grpc.aio.UsageError)
"""What writing to a stream that is over raises."""


M = TypeVar("M", bound=Message)


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
