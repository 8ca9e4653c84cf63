"""One gRPC interceptor that runs all of ours, for the four kinds of RPC.

Streaming handlers are turned into coroutines that write: were they generators, a cancelled call would leave
them to the garbage collector, and what is around a call would end late and in another context.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from services.common.call import Call, set_current_call
from services.common.errors import Malformed

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]
NUM_YIELDS = 4
"""gRPC ends the requests of a client that is gone as if it had finished, and cancels the call one turn of
the event loop later. A handler that saw the end first would go on, or return as if all were well."""


class Interceptor:
    """One concern: what is around a call, and what is asked of each message that comes in."""

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Entered before the first message is read; sees what the handler raises."""
        return nothing()

    def check(self, call: Call, message: Message) -> None:
        """Called with every inbound message before the handler gets it."""


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


class Chain(grpc.aio.ServerInterceptor):
    """Interceptors from the outside in. Handlers are async and read their request iterator:
    `context.read()` would go past the checks, and gives raw bytes."""

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        self._interceptors = interceptors

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        return None if handler is None else self._wrap(handler, handler_call_details.method)

    def _wrap(self, handler: Handler, method: str) -> Handler:
        behaviour: Any = (
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        )

        async def answer(request: Any, context: Context) -> Any:
            async with self._call(method, handler, context) as call:
                return await behaviour(self._inbound(call, handler, request), context)

        async def stream(request: Any, context: Context) -> None:
            async with self._call(method, handler, context) as call:
                responses = behaviour(self._inbound(call, handler, request), context)
                if not hasattr(responses, "__aiter__"):
                    await responses  # writes by itself
                    return
                async with aclosing(responses):
                    async for response in responses:
                        await context.write(response)

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        serializer = unless_bytes(handler.response_serializer)
        return make(stream if handler.response_streaming else answer, None, serializer)

    @asynccontextmanager
    async def _call(self, method: str, handler: Handler, context: Context) -> AsyncIterator[Call]:
        call = Call(method, context, bool(handler.request_streaming), bool(handler.response_streaming))
        set_current_call(call)
        async with AsyncExitStack() as stack:
            for interceptor in self._interceptors:
                await stack.enter_async_context(interceptor.around(call))
            yield call

    def _inbound(self, call: Call, handler: Handler, request: Any) -> Any:
        """The checked message, or the iterator of checked messages."""
        if not call.streams_requests:
            return self._parse(call, handler, request)
        return self._parse_all(call, handler, request)

    async def _parse_all(
        self, call: Call, handler: Handler, requests: AsyncIterator[bytes]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._parse(call, handler, request)
        for _ in range(NUM_YIELDS):
            await asyncio.sleep(0)

    def _parse(self, call: Call, handler: Handler, request: bytes) -> Any:
        """Parsed here and not by gRPC, which answers UNKNOWN to bytes that are no message."""
        try:
            message: Any = handler.request_deserializer(request) if handler.request_deserializer else request
        except Exception:
            raise Malformed(f"these bytes are no request of {call.method}") from None
        for interceptor in self._interceptors:
            interceptor.check(call, message)
        return message


def unless_bytes(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """A handler may answer with messages, or with the bytes of one."""
    return lambda message: message if serialize is None or isinstance(message, bytes) else serialize(message)
